"""Whatever the compatibility page says is held by a test: every number names one, and every named test is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reference" / "compatibility.md").read_text()


def test_every_cell_is_a_known_test_or_says_why_there_is_none():
    named = {int(n) for n in re.findall(r"^(\d+)\. `", PAGE, re.MULTILINE)}
    assert named == set(range(1, len(named) + 1))
    rows = [line.strip("| ").split(" | ")[1:] for line in PAGE.splitlines()
            if line.startswith("| ") and not line.startswith("| condition")]
    assert len(rows) > 30 and {len(r) for r in rows} == {9}
    used = set()
    for row in rows:
        numbers = {int(cell) for cell in row if cell.isdigit()}
        assert numbers and {c for c in row if not c.isdigit()} <= {"n/a", "="}, row
        used |= numbers
    assert used == named


def test_every_named_test_is_there():
    for file, name in re.findall(r"`(tests/[^:`]+)::(\w+)`$", PAGE, re.MULTILINE):
        functions = {n.name for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
