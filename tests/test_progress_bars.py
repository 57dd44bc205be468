"""Every progress bar of the package says what it counts."""

import ast
from pathlib import Path

import nnunetv2_stitch
from nnunetv2_stitch import entrypoints, trainers


def calls_of_tqdm() -> list[tuple[str, ast.Call]]:
    found = []
    for package in (nnunetv2_stitch, entrypoints, trainers):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
                if name in ("tqdm", "trange"):
                    found.append((f"{path}:{node.lineno}", node))
    return found


def test_every_bar_has_a_name():
    """The kind: a bar of bare numbers, of which nobody can tell what they are numbers of."""
    calls = calls_of_tqdm()
    assert len(calls) >= 3
    assert [where for where, call in calls if "desc" not in {k.arg for k in call.keywords}] == []
