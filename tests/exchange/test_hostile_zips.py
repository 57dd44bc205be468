"""Zips that try to write elsewhere, to fill the disk, or that are simply broken: one line, code 2, nothing left."""

import json
import random
import stat
import struct
import zipfile
import zlib

import pytest
from exchange.zips import members

from nnunetv2_stitch.exchange import zips


def with_member(party_zip, target, name, data=b"x", mode=stat.S_IFREG | 0o644, compression=zipfile.ZIP_STORED):
    """The export with one more member."""
    with zipfile.ZipFile(target, "w") as opened:
        for own, contents in members(party_zip).items():
            opened.writestr(own, contents)
        info = zipfile.ZipInfo("replaced")
        info.filename = name  # as it is: ZipInfo would tidy some names
        info.create_system, info.external_attr, info.compress_type = 3, mode << 16, compression
        opened.writestr(info, data)
    return target


NAMES = {
    "absolute": "/tmp/escaped", "home": "/root/.bashrc", "drive": "C:/escaped", "drive without slash": "C:escaped",
    "up": "../escaped", "up twice": "../../escaped", "up inside": "fold_0/../../escaped", "up at the end": "fold_0/..",
    "backslash": "..\\escaped", "backslash inside": "fold_0\\escaped", "share": "\\\\server\\share\\escaped",
    "here": "./escaped", "double slash": "fold_0//escaped", "stream": "plans.json:stream", "trailing dot": "escaped.",
    "trailing space": "escaped ", "device": "nul.txt", "escape sequence": "\x1b[2Jescaped", "line break": "a\nb",
    "right to left": "a\u202egnp.exe", "too long": "a" * 300, "deep": "a/" * 600 + "b",
    "case only": "Plans.JSON", "inside a file": "plans.json/escaped", "other normal form": "caf\u0065\u0301",
}


@pytest.mark.parametrize("kind", NAMES)
def test_dangerous_names(kind, party_zip, tmp_path, refused):
    path = with_member(party_zip, tmp_path / "bad.zip", NAMES[kind])
    if kind == "other normal form":  # dangerous only beside its twin
        with zipfile.ZipFile(path, "a") as opened:
            opened.writestr("caf\u00e9", b"y")
    assert f"{path} is refused: member" in refused(path)
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_links_and_special_files(mode, party_zip, tmp_path, refused):
    path = with_member(party_zip, tmp_path / "bad.zip", "fold_9", b"/etc/passwd", mode | 0o777)
    assert ("is a link" if mode == stat.S_IFLNK else "is a special file") in refused(path)


def test_link_in_place_of_a_file_that_is_wanted(party_zip, tmp_path, refused):
    contents = members(party_zip)
    del contents["plans.json"]
    with zipfile.ZipFile(tmp_path / "less.zip", "w") as opened:
        for name, data in contents.items():
            opened.writestr(name, data)
    path = with_member(tmp_path / "less.zip", tmp_path / "bad.zip", "plans.json", b"/etc/passwd",
                       stat.S_IFLNK | 0o777)
    assert "plans.json is a link" in refused(path)


def test_null_byte_that_hides_the_rest_of_a_name(party_zip, tmp_path, refused):
    path = with_member(party_zip, tmp_path / "bad.zip", "plans.jsonX../escaped")
    path.write_bytes(path.read_bytes().replace(b"plans.jsonX../", b"plans.json\0../"))
    assert "control characters" in refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_occurs_twice(party_zip, tmp_path, refused):
    assert "would be one file" in refused(with_member(party_zip, tmp_path / "bad.zip", "plans.json", b"{}"))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_models_do_not_use(method, party_zip, tmp_path, refused):
    path = with_member(party_zip, tmp_path / "bad.zip", "x", bytes(99), compression=method)
    assert "compressed in a way" in refused(path)


@pytest.mark.parametrize("flag", [0x1, 0x41])
def test_encrypted(flag, party_zip, tmp_path, refused):
    data = bytearray(party_zip.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8:at + 10] = struct.pack("<H", flag)
    (tmp_path / "bad.zip").write_bytes(data)
    assert "is encrypted" in refused(tmp_path / "bad.zip")


def bomb(party_zip, target, name, size):
    """`name` unpacks to `size` zero bytes."""
    contents = members(party_zip)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
        for own, data in contents.items():
            if own != name:
                opened.writestr(own, data)
        with opened.open(name, "w") as member:
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
    return target


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "party.json", "fold_0.safetensors"])
def test_bombs(name, party_zip, tmp_path, refused):
    said = refused(bomb(party_zip, tmp_path / "bad.zip", name, 64 << 20))
    assert f"{name} unpacks to more than" in said


def test_what_is_not_unpacked_may_be_a_bomb(party_zip, tmp_path, results, install):
    path = bomb(party_zip, tmp_path / "odd.zip", "video.mp4", 8 << 20)
    assert "left in the zip: video.mp4" in install(path, "-as", "SiteB")
    assert not list(results.rglob("video.mp4"))


@pytest.mark.parametrize("claimed", [10, 2**31])
def test_header_that_lies_about_a_size(claimed, party_zip, tmp_path, refused):
    path = bomb(party_zip, tmp_path / "bad.zip", "fold_0.safetensors", 4 << 20)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"fold_0.safetensors") - 46  # in the table of contents
    assert data[at:at + 4] == b"PK\x01\x02"
    data[at + 24:at + 28] = struct.pack("<I", claimed)
    path.write_bytes(data)
    refused(path)


def test_disk_that_is_too_small(party_zip, refused, monkeypatch):
    monkeypatch.setattr(zips.shutil, "disk_usage", lambda folder: _Usage())
    assert "make room" in refused(party_zip)


class _Usage:
    free = 1000


def test_total_size(party_zip, refused, monkeypatch):
    monkeypatch.setattr(zips, "MAX_TOTAL_BYTES", 10_000)
    assert "fewer folds" in refused(party_zip)


def test_too_many_members(party_zip, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(zips, "MAX_MEMBERS", 5)
    assert "has 6 members" in refused(party_zip)


def test_too_many_members_are_known_before_they_are_read(tmp_path, refused):
    record = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**31, 4, 0)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04" + record)
    assert "has 65535 members" in refused(tmp_path / "bad.zip")
    zip64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**12, 10**12, 10**14, 4)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 4, 1)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04" + zip64 + locator + record)
    assert f"has {10**12} members" in refused(tmp_path / "bad.zip")


def test_members_that_share_bytes(party_zip, tmp_path, refused):
    data = party_zip.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    index = struct.unpack("<I", data[end + 16:end + 20])[0]
    table = data[index:end]
    size = 46 + len("plans.json")
    twin = table[:size].replace(b"plans.json", b"quilt.json")
    record = bytearray(data[end:])
    count = struct.unpack("<H", record[10:12])[0] + 1
    record[8:16] = struct.pack("<HHI", count, count, len(table) + len(twin))
    (tmp_path / "bad.zip").write_bytes(data[:index] + table + twin + record)
    assert "overlaps another" in refused(tmp_path / "bad.zip")


@pytest.mark.parametrize("fraction", [0.0001, 0.01, 0.3, 0.6, 0.9, 0.99, 0.9999])
def test_cut_short(fraction, party_zip, tmp_path, refused):
    data = party_zip.read_bytes()
    (tmp_path / "bad.zip").write_bytes(data[:max(5, int(fraction * len(data)))])
    assert "cut short" in refused(tmp_path / "bad.zip")


@pytest.mark.parametrize("contents, said", [
    (b"", "is empty"), (b"hello", "is not a zip"), (b"\x89PNG\r\n", "is not a zip"), (b"MZ", "is not a zip"),
    (b"PK\x05\x06" + bytes(18), "is not a zip"), (b"PK\x03\x04" + bytes(100), "cut short"),
])
def test_other_files(contents, said, tmp_path, refused):
    (tmp_path / "bad.zip").write_bytes(contents)
    assert said in refused(tmp_path / "bad.zip")


def test_program_in_front_of_the_zip(party_zip, tmp_path, refused):
    (tmp_path / "bad.zip").write_bytes(b"MZ\x90" + party_zip.read_bytes())
    assert "is not a zip" in refused(tmp_path / "bad.zip")


def test_folder_and_missing_file(tmp_path, refused):
    assert "nowhere.zip does not exist" in refused(tmp_path / "nowhere.zip")
    assert "cannot be read" in refused(tmp_path)


def test_flipped_bytes(party_zip, tmp_path, refused, results, install):
    """Whatever byte is flipped: refused in one line, or in a place that no file's contents depend on."""
    data, chance = party_zip.read_bytes(), random.Random(0)
    path, outcomes = tmp_path / "bad.zip", {"refused": 0, "same": 0}
    table = data.rindex(b"PK\x01\x02") - 300
    spots = [chance.randrange(len(data)) for _ in range(25)] + [chance.randrange(table, len(data)) for _ in range(25)]
    for at in spots:
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            with zipfile.ZipFile(path) as opened:
                same = {n: zlib.crc32(opened.read(n)) for n in opened.namelist()} == {
                    n: zlib.crc32(d) for n, d in members(party_zip).items()}
        except Exception:
            same = False
        if same:
            try:
                install(path, "-as", "SiteB")
                outcomes["same"] += 1
                continue
            except SystemExit as error:
                assert error.code == 2
        else:
            refused(path)
        outcomes["refused"] += 1
    assert outcomes["refused"] >= 25


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "MODEL_CARD.md", "fold_0.safetensors",
                                  "fold_1.safetensors"])
def test_wrong_sha256(name, party_zip, changed_zip, refused):
    def change(contents):
        party = json.loads(contents["party.json"])
        party["files"][name] = "0" * 64
        contents["party.json"] = json.dumps(party).encode()
    assert f"{name} has another sha256 than party.json gives" in refused(changed_zip(change, told=False))


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "MODEL_CARD.md", "fold_0.safetensors", "party.json"])
def test_member_that_is_missing(name, changed_zip, refused):
    said = refused(changed_zip(lambda contents: contents.pop(name), told=False))
    assert "holds no trained model" in said if name == "party.json" else f"lacks {name}" in said
