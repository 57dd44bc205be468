"""The kind: a room of the house that needs one above it, so that neither can be understood or moved alone.

The order of the packages, from the ground up. A room imports from rooms of lower lines only; imports inside functions
count, imports under TYPE_CHECKING do not: they say what a figure is given and bring nothing in.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]  # the sources, wherever the package is installed
HOUSE = ROOT / "nnunetv2_stitch"
OUTSIDE = {name: ROOT / name for name in ("trainers", "entrypoints")}  # of the folder, not of the package
PAGE = ROOT / "docs" / "explanation" / "architecture.md"

#: Modules and packages of one line do not know each other.
ORDER = [line.split() for line in """
    errors _checkout
    fileio locks distributed randomness registration
    folders environment
    devices provenance
    nnunet_internals
    parties
    bridging command_lines
    graph
    gating
    stitching
    exchange
    figures
    fitting
    inference
    evaluation
    selection
    training
    distillation
    search
    merging guiding
    pipeline
    federation
    baselines
    demo
    api
    trainers
    entrypoints
""".strip().splitlines()]
FLOOR = {name: floor for floor, names in enumerate(ORDER) for name in names}

#: Arrows that still point up, each with its reason; nothing else may.
KNOWN: dict[tuple[str, str], str] = {}


def rooms() -> dict[str, list[Path]]:
    """Files of each lone module and each package."""
    found: dict[str, list[Path]] = {}
    for path in sorted(HOUSE.rglob("*.py")):
        found.setdefault(path.relative_to(HOUSE).parts[0].removesuffix(".py"), []).append(path)
    for name, folder in OUTSIDE.items():
        found.setdefault(name, []).extend(sorted(folder.rglob("*.py")))
    del found["__init__"]  # gives out names of all rooms, on demand
    return found


def imports(node: ast.AST):
    """Names of ours that are imported, with their line, wherever the statement stands."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, f"line {child.lineno}: a relative import"
            yield from ((f"{child.module}.{alias.name}", child.lineno) for alias in child.names)
        yield from imports(child)


def arrows() -> dict[tuple[str, str], str]:
    """(importing room, imported room) -> the first place where it is done."""
    found: dict[tuple[str, str], str] = {}
    for room, files in rooms().items():
        for path in files:
            for name, line in imports(ast.parse(path.read_text())):
                package, _, rest = name.partition(".")
                there = rest.split(".")[0]
                if package == "nnunetv2_stitch" and there not in (room, "__version__", ""):
                    found.setdefault((room, there), f"{path.name}, line {line}")
    return found


def test_a_room_imports_only_from_rooms_below():
    assert set(rooms()) == set(FLOOR), "a package without a place in the order, or a place without a package"
    found = arrows()
    assert len(found) > 100
    assert found.keys() >= KNOWN.keys(), "an exception that is not needed any more"
    up = {f"{a} ({where}) imports {b}" for (a, b), where in found.items()
          if (a, b) not in KNOWN and FLOOR.get(b, len(ORDER)) >= FLOOR[a]}
    assert not up


def test_imports_inside_functions_are_seen_and_those_for_types_are_not():
    source = ("if TYPE_CHECKING:\n    import nnunetv2_stitch.demo\n"
              "def f():\n    if True:\n        from nnunetv2_stitch import api, errors\n")
    assert [name for name, _ in imports(ast.parse(source))] == ["nnunetv2_stitch.api", "nnunetv2_stitch.errors"]


def test_the_page_about_the_rooms_names_all_of_them_in_this_order():
    rows = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert [re.findall(r"`(\w+)`", row) for row in rows] == ORDER
