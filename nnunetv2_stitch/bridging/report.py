"""Host against partner, property by property: what is the same, what is bridged and how, what stands in the way."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nnunetv2_stitch.bridging.bridge import Bridge
from nnunetv2_stitch.bridging.intensity import bridge_intensity
from nnunetv2_stitch.bridging.model_properties import (
    has_instance_norm,
    mirroring,
    nnunet_version,
    normalisations,
    output_names,
    total_stride,
)
from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps, NameMatch, match_names
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.model_folder import ModelFolder

SAME, FINE, BRIDGED, APPROXIMATE, BLOCKS = "same", "differs", "bridged", "approximate", "blocks"
TOLERANCE = 1e-3  # nnU-Net takes the median spacing of each party: equal but for rounding


@dataclass(frozen=True)
class Line:
    """One property of both parties. `kind`: same, differs (which does not matter), bridged, approximate (bridged, but
    not to the last digit), blocks. `how` says in words what is done about it, or why nothing can be."""

    name: str
    host: str
    partner: str
    kind: str
    how: str = ""


@dataclass(frozen=True)
class Report:
    """`bridge` is None where something blocks."""

    lines: tuple[Line, ...]
    bridge: Bridge | None

    @property
    def blocking(self) -> list[Line]:
        return [line for line in self.lines if line.kind == BLOCKS]

    def to_json(self) -> dict:
        return {"lines": [asdict(line) for line in self.lines], "can_be_stitched": self.bridge is not None,
                "bridge": None if self.bridge is None else self.bridge.to_json()}


def compare_parties(host: ModelFolder, partner: ModelFolder, maps: NameMaps = NO_MAPS) -> Report:
    """Everything of two models that matters for stitching them, and the bridge between them if there is one.

    Raises:
        StitchError: `maps` name what neither party has.
    """
    lines: list[Line] = [*_model_lines(host, partner)]
    if any(line.kind == BLOCKS for line in lines):
        return Report((*lines, *_other_lines(host, partner)), None)
    channels = _channels(host, partner, maps, lines)
    intensities = _intensities(host, partner, channels, lines)
    axes, ratio = _grid(host, partner, lines)
    multiple = _sizes(host, partner, axes, ratio, lines)
    outputs = _labels(host, partner, maps, lines)
    lines += _other_lines(host, partner)
    if any(line.kind == BLOCKS for line in lines):
        return Report(tuple(lines), None)
    bridge = Bridge(partner.num_input_channels, partner.num_outputs, channels, intensities, axes, ratio, multiple,
                    outputs)
    return Report(tuple(lines), bridge)


STITCHED_WITHOUT = "is unknown to the partner, whose network never answers with it"


def label_remarks(host: ModelFolder, partner: ModelFolder, maps: NameMaps = NO_MAPS,
                  unknown: str = STITCHED_WITHOUT) -> list[str]:
    """A line about labels that one side alone has, which may be one structure under two names; none where all have a
    counterpart or `maps` speak of them. `unknown`: what is said of the host's own."""
    names = [output_names(p) for p in (host, partner)]
    found = match_names(*names, maps.labels, "label")
    theirs = [n for n in found.unmatched if n not in maps.labels]
    ours = [n for n, sources in zip(names[0], found.sources) if not sources]
    said = [f"'{', '.join(only)}' of {whose.dataset_name} ({side}) {becomes}" for only, whose, side, becomes in (
        (ours, host, "the host", unknown),
        (theirs, partner, "the partner", "is left out" if host.label_manager.has_regions else "counts as background"))
        if only]
    hint = " If two of these are one structure under two names, say so with -label_map." if len(said) > 1 else ""
    return [f"WARNING: label {'; label '.join(said)}.{hint}"] if said else []


def require_bridge(host: ModelFolder, partner: ModelFolder, maps: NameMaps = NO_MAPS) -> Report:
    """Raises StitchError, in one line with everything that stands in the way, if the models cannot be stitched."""
    report = compare_parties(host, partner, maps)
    if report.bridge is None:
        found = "; ".join(f"{b.name}: host {b.host}, partner {b.partner} ({b.how})" for b in report.blocking)
        raise StitchError(f"{host.dataset_name} and {partner.dataset_name} cannot be stitched: {found}. "
                          f"nnUNetv2_stitch_info -m_a {host.path} -m_b {partner.path} shows all that differs")
    return report


def _model_lines(host: ModelFolder, partner: ModelFolder) -> list[Line]:
    dims = [len(p.configuration_manager.patch_size) for p in (host, partner)]
    lines = [_line("dimension", f"{dims[0]}d", f"{dims[1]}d", BLOCKS, "2d and 3d networks share no feature maps"),
             _line("configuration", host.configuration, partner.configuration, FINE)]
    cascades = ["second stage" if p.is_cascaded else "none" for p in (host, partner)]
    how = "the second stage of a cascade cannot be stitched: use 2d, 3d_lowres or 3d_fullres"
    lines.append(Line("cascade", *cascades, SAME if cascades == ["none"] * 2 else BLOCKS,
                      "" if cascades == ["none"] * 2 else how))
    regions = ["regions" if p.label_manager.has_regions else "labels" for p in (host, partner)]
    lines.append(_line("trained on", *regions, BLOCKS, "regions overlap and labels do not, so neither answers for the "
                                                       "other"))
    tops = [p.plans_manager.transpose_forward[0] for p in (host, partner)]
    if dims == [2, 2]:
        lines.append(_line("slices along axis", str(tops[0]), str(tops[1]), BLOCKS, "2d networks that cut the volume "
                                                                                   "another way"))
    return lines


def _channels(host, partner, maps, lines) -> tuple[int, ...]:
    names = [p.channel_names for p in (host, partner)]
    found = match_names(*names, maps.channels, "channel")
    order = {theirs: ours for ours, sources in enumerate(found.sources) for theirs in sources}
    shown = [", ".join(n) for n in names]
    if found.unmatched:
        how = f"the host has no channel {', '.join(found.unmatched)}; if it has another name, give -channel_map"
        lines.append(Line("channels", *shown, BLOCKS, how))
        return tuple(order.get(i, 0) for i in range(len(names[1])))
    channels = tuple(order[i] for i in range(len(names[1])))
    how = "in the partner's order" if len(channels) == len(names[0]) else "in the partner's order, without the rest"
    same = channels == tuple(range(len(names[0])))
    lines.append(Line("channels", *shown, SAME if same else BRIDGED, "" if same else how))
    return channels


def _intensities(host, partner, channels, lines) -> tuple:
    norms = [normalisations(p) for p in (host, partner)]
    instance_norm = has_instance_norm(partner)
    found = []
    for theirs, ours in enumerate(channels):
        pair = norms[0][ours], norms[1][theirs]
        intensity, verdict = bridge_intensity(*pair, instance_norm)
        found.append(intensity)
        lines.append(Line(f"normalisation of {host.channel_names[ours]}", *map(str, pair), verdict.kind, verdict.how))
    return tuple(found)


def _grid(host, partner, lines) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The partner's axes among the host's, and its voxels per host voxel."""
    dims = len(host.configuration_manager.patch_size)
    transposes = [list(p.plans_manager.transpose_forward)[-dims:] for p in (host, partner)]
    axes = tuple(transposes[0].index(a) for a in transposes[1])
    lines.append(_line("order of axes", str(transposes[0]), str(transposes[1]), BRIDGED, "transposed for the partner"))
    spacings = [[float(s) for s in p.configuration_manager.spacing][-dims:] for p in (host, partner)]
    ratio = tuple(_ratio(spacings[0][ours], theirs) for ours, theirs in zip(axes, spacings[1]))
    same = all(r == 1 for r in ratio)
    shown = [f"{' x '.join(f'{s:.4g}' for s in spacing)} mm" for spacing in spacings]
    how = "resampled to the partner's voxels inside the network, and back" + (
        "; partner's voxels are much coarser or finer" if max(max(r, 1 / r) for r in ratio) > 2 else "")
    lines.append(Line("spacing", *shown, SAME if same else APPROXIMATE, "" if same else how))
    return axes, ratio


def _ratio(ours: float, theirs: float) -> float:
    return 1.0 if abs(ours - theirs) <= TOLERANCE * ours else ours / theirs


def _sizes(host, partner, axes, ratio, lines) -> tuple[int, ...]:
    """What the partner's input must be a multiple of, where the host's is not already."""
    own, other = total_stride(host), total_stride(partner)
    fits = all(r == 1 and own[a] % m == 0 for a, r, m in zip(axes, ratio, other))
    shown = ["x".join(map(str, s)) for s in (own, other)]
    same = own == other and fits
    how = "" if same else "any size of the host's fits" if fits else "padded to the partner's multiple, cropped after"
    lines.append(Line("size is a multiple of", *shown, SAME if same else FINE if fits else BRIDGED, how))
    patches = ["x".join(map(str, p.configuration_manager.patch_size)) for p in (host, partner)]
    lines.append(_line("patch size", *patches, FINE, "the host's is used"))
    return (1,) * len(axes) if fits else other


def _labels(host, partner, maps, lines) -> tuple[tuple[int, ...], ...]:
    names = [output_names(p) for p in (host, partner)]
    found = match_names(*names, maps.labels, "label")
    shown = [", ".join(n) for n in names]
    regions = host.label_manager.has_regions
    problem = _label_problem(found, regions)
    if problem:
        lines.append(Line("labels", *shown, BLOCKS, problem))
        return found.sources
    said, sources = [], found.sources
    if found.unmatched and not regions:
        dropped = tuple(names[1].index(n) for n in found.unmatched)
        sources = ((*sources[0], *dropped), *sources[1:])
        said.append(f"{', '.join(found.unmatched)} of the partner counts as background")
    elif found.unmatched:
        said.append(f"{', '.join(found.unmatched)} of the partner is left out")
    unknown = [n for n, s in zip(names[0], sources) if not s]
    if unknown:
        said.append(f"{', '.join(unknown)} of the host: the partner has no say")
    same = sources == tuple((i,) for i in range(len(names[1])))
    if not same and not said:
        said.append("in the host's order")
    lines.append(Line("labels", *shown, SAME if same else BRIDGED, "; ".join(said)))
    ignored = [str(p.label_manager.ignore_label) for p in (host, partner)]
    lines.append(_line("ignore label", *ignored, FINE, "no output has it"))
    return sources


def _label_problem(found: NameMatch, regions: bool) -> str | None:
    if regions:
        if any(len(s) > 1 for s in found.sources):
            return "several regions cannot be joined to one, because they may overlap"
        matched = [s for s in found.sources if s]
    else:
        if found.sources[0] and found.sources[0][0] != 0 or not found.sources[0]:
            return "background must be background"
        matched = [s for s in found.sources[1:] if s]
    return None if matched else ("no label of the partner has the name of one of the host's; if they mean the same, "
                                 "give -label_map")


def _other_lines(host: ModelFolder, partner: ModelFolder) -> list[Line]:
    networks = [p.network_spec["network_class_name"].rpartition(".")[2] for p in (host, partner)]
    features = [str(p.network_spec["arch_kwargs"].get("features_per_stage", "")).strip("[]").replace(", ", "-")
                for p in (host, partner)]
    strides = [str(p.network_spec["arch_kwargs"].get("strides", "")).replace(" ", "") for p in (host, partner)]
    preprocessors = [p.configuration_manager.preprocessor_name for p in (host, partner)]
    versions = [nnunet_version(p) for p in (host, partner)]
    return [
        _line("network", *networks, FINE, "layers are matched by scale and progress"),
        _line("features per stage", *features, FINE, "stitches translate between widths"),
        _line("strides", *strides, FINE, "layers of the nearest physical scale are matched"),
        _line("preprocessor", *preprocessors, BLOCKS, "another preprocessor's images cannot be made from the host's"),
        _line("trainer", host.trainer, partner.trainer, FINE),
        _line("mirroring axes", *map(mirroring, (host, partner)), BRIDGED, "only along axes that both have seen"),
        *([_line("nnU-Net version", *versions, FINE)] if None not in versions else []),
        _line("training cases", *[str(p.dataset_json.get("numTraining", "unknown")) for p in (host, partner)], FINE),
    ]


def _line(name: str, host: Any, partner: Any, kind: str, how: str = "") -> Line:
    """A line whose values are either the same or of the given kind."""
    return Line(name, str(host), str(partner), SAME) if host == partner else Line(name, str(host), str(partner), kind,
                                                                                  how)
