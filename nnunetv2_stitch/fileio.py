"""Files that are whole or not there at all: write to a temporary name, then rename."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable
from typing import Any

from nnunetv2_stitch.errors import StitchError


def atomically(path: str, write: Callable[[str], Any]) -> None:
    """Call `write(temporary path)` and rename the result to `path`; the temporary name keeps the file's ending.

    Raises:
        StitchError: the folder cannot be written to.
    """
    folder, name = os.path.split(os.path.abspath(path))
    # Machines that share the folder may have processes of the same number.
    temporary = os.path.join(folder, f".tmp{os.getpid()}_{secrets.token_hex(2)}_{name}")
    try:
        os.makedirs(folder, exist_ok=True)
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # some writers leave files that colleagues cannot read
        os.replace(temporary, path)
    except PermissionError as error:
        raise StitchError(f"no permission to write {path}; choose a folder that you may write to") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def is_writable(folder: str) -> bool:
    """Whether one may write into a folder, or make it where it is not there yet."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK)


def make_folder(folder: str) -> list[str]:
    """Make a folder and those around it; returns what was not there, the outermost first."""
    made: list[str] = []
    around = os.path.abspath(folder)
    while not os.path.isdir(around):
        made.insert(0, around)
        around = os.path.dirname(around)
    os.makedirs(folder, exist_ok=True)
    return made


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str, value: Any) -> None:
    """JSON as nnU-Net writes it: indented, keys in order of insertion. What is no number becomes null, because JSON has
    neither NaN nor infinity and strict readers refuse the file; who reads such a number back must expect null."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(_strict(value), indent=4, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    return [_strict(v) for v in value] if isinstance(value, (list, tuple)) else value


def write_text(path: str, text: str) -> str:
    """Text, in UTF-8 on every system; returns `path`."""
    def write(temporary):
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
    atomically(path, write)
    return path


def read_json(path: str) -> Any:
    """Raises StitchError if the file is missing or not JSON."""
    try:
        with open(path) as f:
            return json.load(f)
    except FileNotFoundError:
        raise StitchError(f"{path} does not exist") from None
    except (ValueError, RecursionError, UnicodeDecodeError) as error:
        raise StitchError(f"{path} is not readable JSON ({error}); copy it again from its source") from error


def relative_path(path: str, around: str) -> str:
    """The way from the folder `around` to `path`, for records: with forward slashes, which every system reads; absolute
    where there is no way, from one drive of Windows to another."""
    try:
        return os.path.relpath(path, around).replace(os.sep, "/")
    except ValueError:
        return os.path.abspath(path).replace(os.sep, "/")


def recorded(path: str, around: str) -> str:
    """How a record names a path: relative to the folder `around` where it lies inside, else absolute."""
    inside = relative_path(path, around)
    return os.path.abspath(path).replace(os.sep, "/") if inside.split("/")[0] == os.pardir else inside


def found_again(record: str, around: str) -> str:
    """The path that `recorded` or `relative_path` named; also of a record with the backslashes of Windows."""
    if os.path.isabs(record):
        return record
    return os.path.normpath(os.path.join(around, *record.replace("\\", "/").split("/")))
