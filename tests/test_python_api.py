"""What the reference says of the Python API exists, with the parameters and defaults that it says."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
CODE = re.compile(r"`([^`]+)`")


def named() -> list[tuple[str, str]]:
    """Package and first column's code, of every row of every table below a heading that names a package."""
    found, package = [], None
    pages = (REFERENCE / name for name in ("python-api.md", "evaluation.md"))
    for line in (line for page in pages for line in page.read_text().splitlines()):
        if line.startswith("#"):
            package = (re.findall(r"`(nnunetv2_stitch[\w.]*)`", line) or [None])[0]
        elif package and line.startswith("| `"):
            found.append((package, line.split(" | ")[0].replace(r"\|", "|")))
    return found


def resolve(package: str, path: str, before: list):
    """The object of a dotted path: below the class before, where it begins with a dot; else in the package, or in the
    module that was named before."""
    if path.startswith("."):
        return getattr(next(b for b in reversed(before) if inspect.isclass(b)), path[1:])
    places = [package, *(b.__module__ for b in reversed(before))]
    for place in places:
        *modules, name = path.split(".")
        try:
            return getattr(importlib.import_module(".".join([place, *modules])), name)
        except (ImportError, AttributeError):
            continue
    raise AssertionError(f"{path} is in none of {places}")


def promised(arguments: str) -> dict[str, str | None]:
    """Parameters with the repr of their defaults, None where there is none."""
    spec = ast.parse(f"def f({arguments}): pass").body[0].args
    values = [None] * (len(spec.args) - len(spec.defaults)) + [ast.unparse(d) for d in spec.defaults]
    star = {spec.vararg.arg: None} if spec.vararg else {}
    return {**dict(zip((a.arg for a in spec.args), values)), **star,
            **{a.arg: d and ast.unparse(d) for a, d in zip(spec.kwonlyargs, spec.kw_defaults)}}


@pytest.mark.parametrize("package", sorted({package for package, _ in named()}))
def test_what_the_reference_names_is_there(package):
    if package.endswith("federation"):
        pytest.importorskip("flwr", reason="Flower (flwr) is not installed; it needs Python 3.11 or newer")
    before, compared = [], 0
    for _, cell in (row for row in named() if row[0] == package):
        for code in CODE.findall(cell):
            path, _, arguments = code.partition("(")
            if " " in path or not re.fullmatch(r"[.\w]+", path):
                continue
            thing = resolve(package, path, before)
            before.append(thing) if hasattr(thing, "__module__") else None
            arguments = arguments.split(" ->")[0].removesuffix(")")
            if "(" not in code or "..." in arguments:
                continue
            actual = dict(inspect.signature(thing).parameters)
            actual.pop("self", None)
            for name, default in promised(arguments).items():
                assert name in actual, f"{code}: the parameters are {list(actual)}"
                if default is not None and repr(actual[name].default) != "<factory>":
                    assert ast.unparse(ast.parse(repr(actual[name].default), mode="eval")) == default, f"{code}: {name}"
            needed = [n for n, p in actual.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD,
                                                                                             p.VAR_POSITIONAL)]
            assert set(needed) <= set(promised(arguments)), f"{code}: needs {needed}"
            compared += 1
    assert before and (compared or "evaluation" in package)
