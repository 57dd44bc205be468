"""Rows as text: markdown for files, aligned columns for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def format_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, markdown: bool = True,
                 digits: int = 3) -> str:
    """Return `rows` as a table with aligned columns, without a final line break.

    Args:
        rows: one mapping per row; a missing key or None gives an empty cell, NaN gives `-`.
        columns: which keys, in which order; default all, in order of first appearance.
        markdown: with bars, as markdown wants it; else columns set apart by two spaces.
        digits: decimals of floats.

    Example:
        >>> print(format_table([{"model": "A alone", "Dice": 0.9}], markdown=False))
        model     Dice
        -------  -----
        A alone  0.900
    """
    if columns is None:
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


def text_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, digits: int = 3) -> str:
    """For the terminal."""
    return format_table(rows, columns, markdown=False, digits=digits)


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, digits: int = 3) -> str:
    """For files."""
    return format_table(rows, columns, markdown=True, digits=digits)
