"""Writes docs/reference/api.md from the docstrings of the public names: `python docs/make_api.py`."""

import inspect
import re
import textwrap
from pathlib import Path

import nnunetv2_stitch as ns
from nnunetv2_stitch.bridging.names import NameMaps

PAGE = Path(__file__).resolve().parent / "reference" / "api.md"
HEAD = """# The public face

Made from the docstrings by `python docs/make_api.py`; do not edit. What is deeper inside is in
[Python API](python-api.md).

```python
import nnunetv2_stitch as ns
```

This imports neither torch nor nnU-Net; the first use of a name does. Errors that a user can do something about are
`ns.StitchError`, one line each; an unknown keyword is Python's own TypeError. nnU-Net starts worker processes: call
what trains, predicts or compares from a script, below `if __name__ == "__main__":`.
"""
METHODS = {
    "StitchedEnsemble": ("from_networks", "fit", "set_position", "double_batched_loss", "position_name", "deployed",
                         "stitch_parameters"),
    "StitchedPredictor": ("initialize_from_trained_model_folder", "set_mode", "answering_as", "save_disagreement",
                          "keeping_shares_in", "save_share_maps"),
}
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example):$", re.MULTILINE)


def signature(name: str, thing) -> str:
    """As Python writes it, a parameter per line where it is long."""
    found, parts = inspect.signature(thing), []
    for p in (p for p in found.parameters.values() if p.name not in ("self", "cls")):
        if p.kind is p.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        kind = "" if p.annotation is p.empty else f": {p.annotation}"
        default = "..." if inspect.isfunction(p.default) or isinstance(p.default, NameMaps) else repr(p.default)
        parts.append(p.name + kind + ("" if p.default is p.empty else f" = {default}" if kind else f"={default}"))
    result = "" if found.return_annotation is found.empty else f" -> {found.return_annotation}"
    whole = f"{name}({', '.join(parts)}){result}"
    if len(whole) > 110:
        whole = f"{name}(\n" + "".join(f"    {p},\n" for p in parts) + f"){result}"
    return f"```python\n{whole}\n```"


def entries(text: str) -> str:
    """Items such as `name: what it is`, each with lines of its own, as a list."""
    items: list[str] = []
    for line in textwrap.dedent(text).strip("\n").splitlines():
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line.strip())
    return "\n".join("- " + re.sub(r"^([\w, ]+?): ", lambda m: ", ".join(f"`{n}`" for n in m[1].split(", ")) + ": ", i)
                     for i in items)


def prose(docstring: str) -> str:
    """A docstring as Markdown."""
    first, *rest = SECTION.split(inspect.cleandoc(docstring))
    parts = [first.strip()]
    for section, text in zip(rest[::2], rest[1::2]):
        if section == "Example":
            parts.append(f"```python\n{textwrap.dedent(text).strip()}\n```")
        elif section == "Returns":
            parts.append("**Returns** " + " ".join(text.split()))
        else:
            parts.append(f"**{section}**\n\n{entries(text)}")
    return "\n\n".join(parts)


def page() -> str:
    """The whole page."""
    parts = [HEAD.strip()]
    for name in ns.__all__:
        thing = getattr(ns, name)
        parts.append(f"## `{name}`")
        if isinstance(thing, str):
            parts.append("The version of the package, a string.")
            continue
        if inspect.isfunction(thing):
            parts.append(signature(f"ns.{name}", thing))
        parts.append(prose(thing.__doc__))
        for method in METHODS.get(name, ()):
            parts += [f"### `.{method}`", signature(f".{method}", getattr(thing, method)),
                      prose(getattr(thing, method).__doc__ or "")]
    return "\n\n".join(p for p in parts if p) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
