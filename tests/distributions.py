"""Source distribution and wheel of this checkout, built from a copy, because a build writes into the source tree."""

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "nnunetv2_stitch": "nnunetv2_stitch",
    "trainers": "nnunetv2_stitch.trainers",
    "entrypoints": "nnunetv2_stitch.entrypoints",
}
#: command -> module and function, as pyproject.toml has them
COMMANDS = {name: (module, function) for name, module, function in re.findall(
    r'^(nnUNetv2_\w+) = "([\w.]+):(\w+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)}


def copy_of_checkout(folder: Path) -> Path:
    """Copy what git would track into `folder`, which must not exist. Works without git, where only a copy is left."""
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_ignored())))


def _ignored() -> list[str]:
    return [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().split())]


def build(source: Path, folder: Path, *options: str) -> list[Path]:
    """Build `source` offline into `folder`; by default the source distribution, and the wheel from that."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(folder), str(source)]
    result = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return sorted(folder.iterdir())


def files_of(folder: Path) -> set[str]:
    """Names, with slashes, of all files below `folder` that git would track."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {p.as_posix() for p in paths if not any(fnmatch(part, name) for part in p.parts for name in _ignored())}


def installed_names(source: Path) -> set[str]:
    """What an installation of `source` consists of, as a wheel names it: all files of the package's folders."""
    return {f"{package.replace('.', '/')}/{name}" for folder, package in FOLDERS.items()
            for name in files_of(source / folder)}


def without_tests_variables() -> dict[str, str]:
    """The environment without what belongs to the tests' own run."""
    ours = ("PYTHON", "PYTEST", "COV_", "nnUNet_extTrainer")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
