"""Values of other parties' JSON files: how deep, long and large they may be, and what counts as a name."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nnunetv2_stitch.errors import StitchError

MAX_DEPTH = 20
MAX_VALUES = 100_000
MAX_TEXT = 4000
MAX_NUMBER = 2**53
#: Parts of folder names: no separators, no leading dot, and no `__`, at which nnU-Net splits folder names.
NAME = re.compile(r"(?!.*(__|\.\.))[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
ENDING = re.compile(r"(\.[A-Za-z0-9]{1,10}){1,3}")


def is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None and not value.endswith(".")


def is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def printable(text: Any, most: int = 100) -> str:
    """For the terminal and for Markdown: one line, without escape sequences."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:most])


@contextmanager
def without_warnings() -> Iterator[None]:
    """What torch and nnU-Net warn of while they look at odd files is no news; what is wrong is said in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def require_modest(value: Any, where: str) -> None:
    """Refuse JSON that no model needs: nested or long beyond reason, NaN, infinity, numbers beyond 2^53.

    Raises:
        StitchError: naming `where`.
    """
    pending, count = [(value, 0)], 0
    while pending:
        item, depth = pending.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise refused(where, f"is nested deeper than {MAX_DEPTH} or holds more than {MAX_VALUES} values")
        if isinstance(item, dict):
            pending += [(v, depth + 1) for pair in item.items() for v in pair]
        elif isinstance(item, list):
            pending += [(v, depth + 1) for v in item]
        elif isinstance(item, str):
            if len(item) > MAX_TEXT:
                raise refused(where, f"holds a text of {len(item)} characters")
        elif item is not None and not isinstance(item, bool) and not (is_number(item) and abs(item) <= MAX_NUMBER):
            raise refused(where, "holds a number that is NaN, infinite or beyond 2^53")


def refused(where: str, what: str) -> StitchError:
    return StitchError(f"{where} {what}, as no model of nnU-Net does; ask the sender for the model folder's own files")
