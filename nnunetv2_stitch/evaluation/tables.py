"""Rows as text: markdown for files, aligned columns for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def text_table(rows: Sequence[Mapping[str, Any]], digits: int = 3) -> str:
    """For the terminal: columns set apart by two spaces, without a final line break.

    Args:
        rows: one mapping per row; columns are their keys in order of first appearance. A missing key or None gives an
            empty cell, NaN gives `-`.
        digits: decimals of floats.

    Example:
        >>> print(text_table([{"model": "A alone", "Dice": 0.9}]))
        model     Dice
        -------  -----
        A alone  0.900
    """
    return _table(rows, digits, markdown=False)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For files, with bars; else as `text_table`."""
    return _table(rows, 3, markdown=True)


def _table(rows: Sequence[Mapping[str, Any]], digits: int, markdown: bool) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    header = [str(column) for column in columns]
    body = [[_cell(row.get(column), digits) for column in columns] for row in rows]
    widths = [max([3, *(len(line[i]) for line in [header, *body])]) for i in range(len(columns))]
    # Numbers are compared digit under digit, so a column in which all that is given is a number goes to the right.
    right = [any(column in row for row in rows) and all(_is_number(row.get(column)) for row in rows)
             for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(cells, widths, right)]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    if markdown:
        rule = f"| {' | '.join('-' * (w - 1) + (':' if r else '-') for w, r in zip(widths, right))} |"
        return "\n".join([line([h.replace("|", r"\|") for h in header]), rule, *map(line, body)])
    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, body)])


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.{digits}f}"
    return str(value).replace("|", r"\|").replace("\n", " ")


def with_interval(mean: float, low: float, high: float, digits: str) -> str:
    """Such as `0.912 [0.880, 0.931]`; `-` of a mean that is no number. `digits`: of all three, such as `.3f`."""
    if not math.isfinite(mean):
        return "-"
    return f"{mean:{digits}}" + (f" [{low:{digits}}, {high:{digits}}]" if math.isfinite(low) else "")
