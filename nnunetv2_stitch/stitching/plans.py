"""The plans of a stitched ensemble: the host's, with our network class, both parents, matches and setting."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from nnunetv2_stitch.bridging.bridge import Bridge
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph.matching import Match, match_layers
from nnunetv2_stitch.graph.nodes import LayerNode, layer_nodes
from nnunetv2_stitch.graph.tracing import trace
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights, sha256
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.stitching.network import CLASS_PATH, StitchedEnsemble, build_parent
from nnunetv2_stitch.stitching.setting import SIDES, Setting


@dataclass(frozen=True)
class Layout:
    """Both parents as lists of layers, and their matches in order of position."""

    nodes: tuple[list[LayerNode], list[LayerNode]]
    matches: list[Match]

    def position_name(self, position: int) -> str:
        """The host's layer at a position, and the partner's where its path differs."""
        match = self.matches[position]
        if match.host_path == match.partner_path:
            return match.host_path
        return f"{match.host_path} / {match.partner_path}"

    def pairs(self) -> list[tuple[int, int]]:
        """The matches as indices into the two lists of nodes."""
        host, partner = ({n.name: i for i, n in enumerate(side)} for side in self.nodes)
        return [(host[m.host], partner[m.partner]) for m in self.matches]

    def progress(self) -> list[float]:
        """The host's progress in [0, 1] by position."""
        by_name = {n.name: n.progress for n in self.nodes[0]}
        return [by_name[m.host] for m in self.matches]


def lay_out(host: ModelFolder, partner: ModelFolder, positions: str = "all", bridge: Bridge | None = None) -> Layout:
    """Trace both parents (without weights, on the meta device) and match their layers.

    Raises:
        StitchError: a network that cannot be built or traced, or no two layers that match.
    """
    nodes = []
    for party in (host, partner):
        with torch.device("meta"):
            network = build_parent(party.network_spec, party.num_input_channels, party.num_outputs)
            nodes.append(layer_nodes(trace(network), party.num_input_channels))
    grids = () if bridge is None else (bridge.ratio, bridge.axes)
    matches = match_layers(*nodes, positions, *grids)
    if not matches:
        raise StitchError("no layer of the two networks has the same stride, so nothing can be stitched")
    return Layout(tuple(nodes), matches)


@dataclass(frozen=True)
class Training:
    """How stitches are fitted; travels in the plans, so that stock nnUNetv2_train uses the same."""

    trainer: str
    num_epochs: int | None = None
    num_iterations_per_epoch: int | None = None
    seed: int = 12345
    checkpoint_segments: int = 1
    setting: dict | None = None

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class ParentRecord:
    """Where a parent's weights come from; `folds` maps the stitched fold to the parent's fold and sha256. `name` and
    `licence` are the sender's, where the model came as an export."""

    dataset: str
    trainer: str
    plans: str
    configuration: str
    checkpoint: str
    folder: str
    folds: dict[str, dict] = field(default_factory=dict)
    name: str = ""
    licence: str = ""


def record_parent(party: ModelFolder, results: str, folds: dict[int | str, int | str],
                  name: str = "", licence: str = "") -> ParentRecord:
    """A `ParentRecord`; the folder is relative to nnUNet_results where it lies inside, absolute elsewhere."""
    inside = os.path.relpath(party.path, results)
    paths = {s: party.checkpoint_path(own) for s, own in folds.items()}
    return ParentRecord(
        party.dataset_name, party.trainer, party.plans_name, party.configuration, party.checkpoint_name,
        os.path.abspath(party.path) if inside.startswith("..") else inside,
        {str(s): {"fold": str(own), "sha256": sha256(paths[s])} for s, own in folds.items()},
        name, licence,
    )


def stitched_plans(host: ModelFolder, partner: ModelFolder, layout: Layout, plans_name: str, setting: Setting,
                   positions: Sequence[int] | None, training: Training, parents: Sequence[ParentRecord],
                   previous: dict | None = None, bridge: Bridge | None = None) -> dict:
    """Plans with one stitched configuration, keeping other configurations of `previous` stitched plans.

    `data_identifier` stays the host's, so that the host's preprocessed data are reused.
    """
    plans = copy.deepcopy(host.plans)
    plans["plans_name"] = plans_name
    plans["configurations"] = dict((previous or {}).get("configurations", {}))
    configuration = copy.deepcopy(host.configuration_manager.configuration)
    configuration["architecture"] = {
        "network_class_name": CLASS_PATH,
        "arch_kwargs": {
            "parents": [host.network_spec, partner.network_spec],
            "matches": [asdict(m) for m in layout.matches],
            "positions": None if positions is None else list(positions),
            "setting": setting.to_json(),
            "regions": bool(host.label_manager.has_regions),
            **({} if bridge is None or bridge.is_identity else {"bridge": bridge.to_json()}),
        },
        "_kw_requires_import": [],
    }
    configuration["stitching"] = {"training": training.to_json(), "parents": [asdict(p) for p in parents]}
    plans["configurations"][host.configuration] = configuration
    return plans


def is_stitched(configuration: dict) -> bool:
    return configuration.get("architecture", {}).get("network_class_name") == CLASS_PATH


def supernet_from_plans(configuration: dict, input_channels: int, num_classes: int) -> StitchedEnsemble:
    """The supernet that a stitched configuration describes, with untrained weights.

    Raises:
        StitchError: the configuration is not a stitched one.
    """
    if not is_stitched(configuration):
        raise StitchError("these plans describe no stitched ensemble; run nnUNetv2_train_stitch first")
    arguments = configuration["architecture"]["arch_kwargs"]
    return StitchedEnsemble(input_channels, num_classes, **arguments, supernet=True)


def load_parents(network: StitchedEnsemble, configuration: dict, fold: int | str,
                 results: str) -> tuple[int, ...] | None:
    """Fill both parents of a supernet from their own model folders, checking the sha256 named in the plans. Returns the
    host's axes along which all of them may be mirrored, None for none: a parent that was trained without mirroring
    has never seen a mirrored image.

    Raises:
        StitchError: a missing, changed or unreadable checkpoint, or weights that do not fit.
    """
    allowed = []
    for side, record in zip(SIDES, configuration["stitching"]["parents"]):
        entry = record["folds"].get(str(fold))
        if entry is None:
            raise StitchError(f"the plans name no {side} weights for fold {fold}, only for folds "
                              f"{', '.join(record['folds'])}; run nnUNetv2_train_stitch with -f {fold}")
        path = os.path.join(results, record["folder"], f"fold_{entry['fold']}", record["checkpoint"])
        checkpoint = load_checkpoint(path)
        weights = network_weights(checkpoint)
        if sha256(path) != entry["sha256"]:
            raise StitchError(f"{path} is not the checkpoint that the plans were made for (sha256 differs); "
                              f"run nnUNetv2_train_stitch again")
        load_weights(getattr(network, side), weights, path)
        axes = checkpoint.get("inference_allowed_mirroring_axes") or ()
        allowed.append({network.terms.axes[a] for a in axes} if side != SIDES[0] and network.terms else set(axes))
    return tuple(sorted(set.intersection(*allowed))) or None


def layout_of(network: StitchedEnsemble) -> Layout:
    """The layout of a stitched ensemble, its parents traced anew."""
    with torch.device("meta"):
        nodes = tuple(layer_nodes(trace(build_parent(spec, *shape)), shape[0])
                      for spec, shape in zip(network.parents, map(network.shape_of, SIDES)))
    return Layout(nodes, [Match(**m) for m in network.matches])


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
