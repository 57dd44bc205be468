"""Whether two parties' models can be stitched, and whether a plans file names only classes that may be built."""

from __future__ import annotations

import math
import pydoc
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os.path import join
from typing import TYPE_CHECKING, Any

import dynamic_network_architectures
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import nn

from nnunetv2_stitch.errors import StitchError

if TYPE_CHECKING:
    from nnunetv2_stitch.parties.reading import ModelFolder

ARCHITECTURES = "dynamic_network_architectures.architectures."
OPERATIONS = ("torch.nn.", "dynamic_network_architectures.building_blocks.")
# A dotted name without underscores in front: nothing private, and nothing else that pydoc.locate could make sense of.
DOTTED_NAME = r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+"
# nnU-Net takes the median spacing of each party: equal but for rounding.
TOLERANCE = 1e-3
# These read nothing but the image; CTNormalization, and perhaps a scheme of the user's own, reads the fingerprint.
IMAGE_ONLY_SCHEMES = ("ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization")
CT_CONSTANTS = ("mean", "std", "percentile_00_5", "percentile_99_5")


@dataclass(frozen=True)
class Difference:
    """One property in which two models differ."""

    key: str
    host: Any
    partner: Any

    def __str__(self) -> str:
        return f"{self.key}: host {_shown(self.host)}, partner {_shown(self.partner)}"


def differences(host: ModelFolder, partner: ModelFolder) -> list[Difference]:
    """Everything in which the models differ so that one input cannot serve both or their outputs mean different things.

    Not compared, because it does not matter: names of datasets, trainers and plans, patch and batch size, networks,
    file formats, and intensity constants that no normalization scheme in use reads.
    """
    theirs = dict(_properties(partner))
    found = [Difference(key, value, theirs.pop(key, None)) for key, value in _properties(host)]
    found += [Difference(key, None, value) for key, value in theirs.items()]
    return [d for d in found if not _equal(d.host, d.partner)]


def require_compatible(host: ModelFolder, partner: ModelFolder) -> None:
    """Raises StitchError, in one line with all differences side by side, if the models cannot be stitched."""
    found = differences(host, partner)
    if found:
        raise StitchError(
            f"{host.dataset_name} and {partner.dataset_name} cannot be stitched: {'; '.join(map(str, found))}. Both "
            f"need the same labels, channels and preprocessing: give the partner the host's plans "
            f"(nnUNetv2_move_plans_between_datasets) and train it again")


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


def _properties(party: ModelFolder) -> Iterator[tuple[str, Any]]:
    configuration, plans, dataset = party.configuration_manager, party.plans_manager, party.dataset_json
    yield "dimension", f"{len(configuration.patch_size)}d"
    yield "configuration", party.configuration
    channels = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
    yield "channels", [channels[k] for k in sorted(channels, key=int)]
    labels = [(k, _plain_label(v)) for k, v in dataset["labels"].items() if k != "ignore"]
    regions = party.label_manager.has_regions
    # Regions are output channels in the order of dataset.json; other labels are in order of their values.
    yield "labels", [f"{k}={v}" for k, v in (labels if regions else sorted(labels, key=lambda item: item[1]))]
    yield "regions_class_order", dataset.get("regions_class_order") if regions else None
    yield "ignore label", party.label_manager.ignore_label
    yield "spacing", [float(s) for s in configuration.spacing]
    yield "transpose_forward", list(plans.transpose_forward)
    yield "preprocessor", configuration.preprocessor_name
    schemes = list(configuration.normalization_schemes)
    yield "normalization_schemes", schemes
    yield "use_mask_for_norm", list(configuration.use_mask_for_norm)
    constants = [(i, s) for i, s in enumerate(schemes) if s not in IMAGE_ONLY_SCHEMES]
    properties = plans.foreground_intensity_properties_per_channel if constants else {}
    for index, scheme in constants:
        channel = properties.get(str(index), {})
        yield f"intensities of channel {index} ({scheme})", {k: float(channel[k]) for k in CT_CONSTANTS if k in channel}


def _plain_label(value: Any) -> Any:
    """A region of one label is that label."""
    if isinstance(value, (list, tuple)):
        return int(value[0]) if len(value) == 1 else [int(v) for v in value]
    return int(value)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _equal(a: Any, b: Any) -> bool:
    """Equality of JSON values, with numbers equal within a relative 0.001; labels and flags are never that close."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE)
    return a == b
