"""Whether a plans file names only classes that may be built."""

from __future__ import annotations

import pydoc
import re
from collections.abc import Mapping
from os.path import join
from typing import Any

import dynamic_network_architectures
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.trust import is_trusting

ARCHITECTURES = "dynamic_network_architectures.architectures."
OPERATIONS = ("torch.nn.", "dynamic_network_architectures.building_blocks.")
# A dotted name without underscores in front: nothing private, and nothing else that pydoc.locate could make sense of.
DOTTED_NAME = r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+"


def require_allowed_classes(spec: Mapping) -> None:
    """Refuse a network description that names anything but network parts, before anything it names is imported.

    Building a network from plans imports and calls whatever the plans name, and a partner's plans are untrusted.

    Args:
        spec: `network_class_name`, `arch_kwargs` and `_kw_requires_import` of a plans file.

    Raises:
        StitchError: the description is malformed, a name lies outside the packages of network parts, or what it names
            is not a class of networks.
    """
    name, arguments, imports = (spec.get(k) for k in ("network_class_name", "arch_kwargs", "_kw_requires_import"))
    if not isinstance(arguments, Mapping) or not isinstance(imports, (list, tuple)):
        raise StitchError("plans.json: the architecture needs arch_kwargs (an object) and _kw_requires_import (a "
                          "list); copy plans.json again from its source")
    named = {"network_class_name": (name, (ARCHITECTURES,))}
    for key in imports:
        if not isinstance(key, str) or key not in arguments:
            raise StitchError(f"plans.json: _kw_requires_import names {key!r}, which arch_kwargs does not hold; copy "
                              f"plans.json again from its source")
        if arguments[key] is not None:
            named[key] = (arguments[key], OPERATIONS)
    if is_trusting():
        return
    for key, (value, packages) in named.items():
        if not isinstance(value, str) or not re.fullmatch(DOTTED_NAME, value) or not value.startswith(packages):
            raise _refused(key, value, packages)
    for key, (value, packages) in named.items():
        found = _locate(value)
        # A dotted name can lead out of its package again, through what a module has imported.
        if not (isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(
                tuple(p.rstrip(".") for p in packages))):
            raise _refused(key, value, packages)


def _refused(key: str, value: Any, packages: tuple[str, ...]) -> StitchError:
    return StitchError(f"plans.json: {key} {str(value)[:100]!r} is not allowed, only network classes in "
                       f"{' or '.join(p + '*' for p in packages)}; if you trust the sender, ask for a model with one "
                       f"of nnU-Net's own networks")


def _locate(name: str) -> Any:
    """As nnU-Net finds classes, with its way out for networks that have moved to another module since."""
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return None
    if found is None and name.startswith(ARCHITECTURES):
        found = recursive_find_python_class(join(dynamic_network_architectures.__path__[0], "architectures"),
                                            name.split(".")[-1], ARCHITECTURES.rstrip("."))
    return found
