"""Zips that say nothing about the computer they were written on: no dates, no owners, no paths."""

from __future__ import annotations

import json
import zipfile
from typing import Any

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
MODE = 0o100644


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
