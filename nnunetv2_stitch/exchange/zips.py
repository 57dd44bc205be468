"""Zips of other parties, untrusted: all names and sizes are looked at before one byte is unpacked; and zips of ours,
which say nothing about the computer they were written on."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.untrusted_json import printable

MIB, GIB = 1 << 20, 1 << 30
MAX_MEMBERS = 50_000  # a stock zip may bring the validation predictions of every case along
MAX_INDEX_BYTES = 32 * MIB  # the zip's own table of contents, which zipfile reads whole
MAX_NAME_LENGTH = 1000
MAX_MEMBER_BYTES = 16 * GIB
MAX_TOTAL_BYTES = 64 * GIB  # of what is unpacked
MAX_RATIO = 200  # bytes out per byte in; deflate reaches 1032, trained weights and JSON files of nnU-Net not even 50
FREE_OF_RATIO_BYTES = MIB  # small members may be as repetitive as they like
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1 | 0x40 | 0x2000
BLOCK = MIB
ACCEPTED = "give a zip made by nnUNetv2_export_party or by nnUNetv2_export_model_to_zip"
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
MODE = 0o100644


class Archive:
    """An open zip whose members may be read one by one. Made by `open_archive`."""

    def __init__(self, path: str, opened: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]):
        self.path, self._zip, self._members, self._total = path, opened, members, 0

    @property
    def names(self) -> tuple[str, ...]:
        """Files, without folders, in the zip's order; every name is relative and safe to print."""
        return tuple(name for name, info in self._members.items() if not info.is_dir())

    def size(self, name: str) -> int:
        """Bytes of a member when unpacked, as the zip claims."""
        return self._members[name].file_size

    def extract(self, name: str, target: str) -> None:
        """Unpack one member to the file `target`, whose folder must exist.

        Raises:
            StitchError: more bytes than any weights have, or an absurd compression (by what comes out, not by what the
                zip claims), damaged data, or a target that cannot be written.
        """
        for block, out in self._blocks(name, MAX_MEMBER_BYTES, target):
            try:
                out.write(block)
            except OSError as error:
                raise StitchError(f"cannot write {target} ({error.strerror}); make room or choose another folder"
                                  ) from error

    def read(self, name: str, limit: int) -> bytes:
        """One small member, of at most `limit` bytes. Raises as `extract` does."""
        return b"".join(block for block, _ in self._blocks(name, limit))

    def _blocks(self, name: str, limit: int, target: str = os.devnull) -> Iterator[tuple[bytes, BinaryIO]]:
        info, count = self._members[name], 0
        with open(target, "wb") as out:
            for block in self._decompressed(info):
                count, self._total = count + len(block), self._total + len(block)
                if count > limit:
                    raise StitchError(f"{self.path}: {name} unpacks to more than {_shown(limit)}; this is no model, "
                                      f"ask the sender what it is")
                if self._total > MAX_TOTAL_BYTES:
                    raise StitchError(f"{self.path} unpacks to more than {_shown(MAX_TOTAL_BYTES)}; ask the sender for "
                                      f"fewer folds")
                if count > FREE_OF_RATIO_BYTES and count > MAX_RATIO * info.compress_size:
                    raise StitchError(f"{self.path}: {name} unpacks to more than {MAX_RATIO} times its size, as zip "
                                      f"bombs do and weights do not; ask the sender what it is")
                yield block, out

    def _decompressed(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        try:
            with self._zip.open(info) as member:
                while block := member.read(BLOCK):
                    yield block
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError,
                struct.error) as error:
            raise StitchError(f"{self.path}: {info.filename} is damaged ({str(error)[:100] or type(error).__name__}); "
                              f"copy the zip again and compare its sha256 with the sender's") from error


@contextmanager
def open_archive(path: str) -> Iterator[Archive]:
    """Open a zip for reading, after every member's name, kind and place were checked.

    Raises:
        StitchError: no such file, no zip, damaged, too many members; or any member, wanted or not, with a name that
            leaves its folder or is not portable, that is a link or another special file, that is encrypted, occurs
            twice, or overlaps another.
    """
    try:
        _require_small_index(path)
        opened = zipfile.ZipFile(path)
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise StitchError(f"{path} {reason}; {ACCEPTED}") from error
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, EOFError) as error:
        raise _damaged(path, error) from error
    with opened:
        yield Archive(path, opened, _checked_members(path, opened))


def require_room(folder: str, needed: int) -> None:
    """Raises StitchError if the disk of `folder` has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StitchError(f"the disk has {_shown(free)} left and unpacking needs {_shown(needed)}; make room or choose "
                          f"a folder on another disk")


def index_size(path: str) -> tuple[int, int] | None:
    """Members and bytes that the table of contents of a zip claims, read from its last bytes; None if there is none.

    zipfile builds an object for each entry, so a table of absurd size must be known before.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        f.seek(max(0, size - 22 - 0xFFFF - 20))
        tail = f.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            return None
        if at >= 20 and tail[at - 20:at - 16] == b"PK\x06\x07":  # zip64: the true numbers are elsewhere
            offset = struct.unpack("<Q", tail[at - 12:at - 4])[0]
            f.seek(min(offset, size))
            record = f.read(56)
            return struct.unpack("<QQ", record[32:48]) if record[:4] == b"PK\x06\x06" and len(record) == 56 else None
        return struct.unpack("<HI", tail[at + 10:at + 16])


def _require_small_index(path: str) -> None:
    size = os.path.getsize(path)
    if size == 0:
        raise StitchError(f"{path} is empty; copy it again from its source")
    with open(path, "rb") as f:
        if f.read(4) != b"PK\x03\x04":
            raise StitchError(f"{path} is not a zip; {ACCEPTED}")
    index = index_size(path)
    if index is None:
        raise StitchError(f"{path} is cut short at {size} bytes; copy it again from its source")
    if index[0] > MAX_MEMBERS or index[1] > MAX_INDEX_BYTES:
        raise StitchError(f"{path} has {index[0]} members; at most {MAX_MEMBERS} are read: ask the sender for a zip "
                          f"without predictions")


def _checked_members(path: str, opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = opened.infolist()
    if len(infos) > MAX_MEMBERS:
        raise StitchError(f"{path} has {len(infos)} members; at most {MAX_MEMBERS} are read")
    members: dict[str, zipfile.ZipInfo] = {}
    folded: dict[str, str] = {}
    for info in infos:
        name = info.orig_filename  # zipfile cuts `filename` at a null byte
        reason = _reason_against_name(name) or _reason_against_kind(info)
        if reason:
            raise StitchError(f"{path} is refused: member {printable(name)} {reason}; nothing was unpacked. Ask the "
                              f"sender for a zip made by nnUNetv2_export_party")
        key = unicodedata.normalize("NFC", name.rstrip("/")).casefold()
        if key in folded:
            raise StitchError(f"{path} is refused: members {folded[key]} and {name} would be one file; nothing was "
                              f"unpacked")
        folded[key] = name
        members[name] = info
    files = {key for key, name in folded.items() if not name.endswith("/")}
    for key in folded:
        parts = key.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in files:
                raise StitchError(f"{path} is refused: member {folded[key]} lies inside a file; nothing was unpacked")
    _require_apart(path, opened, infos)
    return members


def _reason_against_name(name: str) -> str | None:
    parts = name[:-1].split("/") if name.endswith("/") else name.split("/")
    if not name or len(name) > MAX_NAME_LENGTH or any(len(p.encode("utf-8", "replace")) > 255 for p in parts):
        return "has no name or one that is too long"
    if not name.isprintable():
        return "has control characters in its name"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "has an absolute path"
    if "\\" in name or ":" in name:
        return "has a backslash or a colon in its name"
    if ".." in parts:
        return "leads out of its folder"
    if "" in parts or "." in parts:
        return "has an empty part in its path"
    if any(p != p.rstrip(". ") or WINDOWS_DEVICES.fullmatch(p) for p in parts):
        return "has a name that not every system can hold"
    return None


def _reason_against_kind(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > info.orig_filename.endswith("/"):
        return "is a special file"
    if info.flag_bits & ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in METHODS:
        return "is compressed in a way that is not used for models"
    return "is a folder with contents" if info.is_dir() and info.file_size else None


def _require_apart(path: str, opened: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> None:
    """Members that share bytes are how the most effective zip bombs are made."""
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        if info.header_offset < end:
            raise StitchError(f"{path} is refused: member {info.filename} overlaps another; nothing was unpacked")
        end = info.header_offset + 30 + len(info.filename) + info.compress_size
    if end > opened.start_dir:
        raise _damaged(path, "members reach beyond its end")


def _damaged(path: str, reason) -> StitchError:
    return StitchError(f"{path} is damaged ({str(reason)[:100] or type(reason).__name__}); copy it again and compare "
                       f"its sha256 with the sender's")


def _shown(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


class ZipWriter:
    """A new zip; every member's name gets `prefix` in front. Use as a context manager."""

    def __init__(self, path: str, prefix: str = ""):
        self._zip, self._prefix = zipfile.ZipFile(path, "w"), prefix

    def __enter__(self) -> ZipWriter:
        return self

    def __exit__(self, *error) -> None:
        self._zip.close()

    def add(self, name: str, contents: bytes, packed: bool) -> None:
        """`packed`: compress, which pays for text and not for weights."""
        info = zipfile.ZipInfo(self._prefix + name, EPOCH)
        info.create_system, info.external_attr = 3, MODE << 16
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        self._zip.writestr(info, contents)


def json_bytes(value: Any) -> bytes:
    """JSON as nnU-Net writes it, refusing NaN, which is none."""
    return json.dumps(value, indent=4, allow_nan=False).encode()
