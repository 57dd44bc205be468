"""The kind: a function that takes many things and does not say what they are."""

import ast
from pathlib import Path

import nnunetv2_stitch

HOUSE = Path(nnunetv2_stitch.__file__).parent
MANY = 5  # parameters


def test_public_functions_with_many_parameters_say_what_they_take():
    asked, silent = 0, []
    for path in sorted(HOUSE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                given = node.args
                if len([*given.posonlyargs, *given.args, *given.kwonlyargs]) >= MANY:
                    asked += 1
                    if "\nArgs:\n" not in (ast.get_docstring(node) or ""):
                        silent.append(f"{path.relative_to(HOUSE).as_posix()}: {node.name}")
    assert asked > 50
    assert not silent
