"""The plans of a stitched ensemble: the host's, with our network class, all parents, matches and setting."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn

from nnunetv2_stitch.bridging.bridge import Bridge
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import found_again, recorded
from nnunetv2_stitch.graph.matching import Match, match_star
from nnunetv2_stitch.graph.nodes import LayerNode, layer_nodes
from nnunetv2_stitch.graph.tracing import trace
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights, require_digest, sha256
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.network import CLASS_PATH, StitchedEnsemble
from nnunetv2_stitch.stitching.setting import Setting, party_names


@dataclass(frozen=True)
class Layout:
    """All parents as lists of layers by name, the host first, and the matches in order of position."""

    nodes: dict[str, list[LayerNode]]
    matches: list[Match]

    def position_name(self, position: int) -> str:
        """The host's layer at a position, the partner's where its path differs, and which partner where there are
        several."""
        match = self.matches[position]
        name = match.host_path if match.host_path == match.partner_path else f"{match.host_path} / {match.partner_path}"
        return name if len(self.nodes) == 2 else f"{name} ({match.party})"

    def pairs(self, party: str = "partner") -> dict[int, tuple[int, int]]:
        """The matches with one partner, by position, as indices into the two lists of nodes."""
        host, partner = ({n.name: i for i, n in enumerate(self.nodes[p])} for p in ("host", party))
        return {k: (host[m.host], partner[m.partner]) for k, m in enumerate(self.matches) if m.party == party}

    def progress(self) -> list[float]:
        """The host's progress in [0, 1] by position."""
        by_name = {n.name: n.progress for n in self.nodes["host"]}
        return [by_name[m.host] for m in self.matches]


def lay_out(host: ModelFolder, partners: Sequence[ModelFolder], positions: str = "all",
            bridges: Sequence[Bridge | None] = ()) -> Layout:
    """Trace all parents (without weights, on the meta device) and match the host's layers with each partner's.

    Raises:
        StitchError: a network that cannot be built or traced, or no two layers that match.
    """
    nodes = {}
    for name, party in zip(party_names(1 + len(partners)), (host, *partners)):
        with torch.device("meta"):
            network = build_parent(party.network_spec, party.num_input_channels, party.num_outputs)
            nodes[name] = layer_nodes(trace(network), party.num_input_channels)
    names = list(nodes)[1:]
    matches = match_star(nodes, positions, {n: (b.ratio, b.axes) for n, b in zip(names, bridges) if b is not None})
    for name, partner in zip(names, partners):
        if not any(m.party == name for m in matches):
            raise StitchError(f"no layer of the networks of {host.dataset_name} and {partner.dataset_name} has the "
                              f"same stride, so nothing can be stitched")
    return Layout(nodes, matches)


STITCHING_KEY = "stitching"  # of a configuration: what is ours alone in plans


@dataclass(frozen=True)
class Training:
    """How stitches are fitted; travels in the plans, so that stock nnUNetv2_train uses the same. None: the trainer's
    own. `setting` is the one that the request fixes, later the one that is deployed."""

    trainer: str
    num_epochs: int | None = None
    num_iterations_per_epoch: int | None = None
    seed: int = 12345
    checkpoint_segments: int | str = 1
    setting: dict | None = None
    positions_per_pass: int | None = None
    half_targets: bool = False


@dataclass(frozen=True)
class ParentRecord:
    """Where a parent's weights come from; `folds` maps the stitched fold to the parent's `fold` and its `sha256`.
    `name` and `licence` are the sender's, where the model came as an export. `adapted`: it was trained on with a host's
    images."""

    dataset: str
    trainer: str
    plans: str
    configuration: str
    checkpoint: str
    folder: str
    folds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    name: str = ""
    licence: str = ""
    adapted: bool = False

    @property
    def shown(self) -> str:
        """What its sender calls it, else its dataset."""
        return self.name or self.dataset

    def sha256(self, fold: int | str) -> str | None:
        """Of the checkpoint that a stitched fold has; None where that fold is not stitched."""
        return self.folds.get(str(fold), {}).get("sha256")

    def path(self, fold: int | str, results: str) -> str:
        """The checkpoint that a stitched fold has."""
        return recorded_checkpoint(self.folder, self.checkpoint, self.folds[str(fold)]["fold"], results)

    def at(self, other: ParentRecord) -> ParentRecord:
        """As another record names and finds it, with this one's folds."""
        return replace(other, folds=self.folds)


def shown_names(parents: Sequence[ParentRecord]) -> list[str]:
    """What people call the parents: two that are called alike, such as an adapted partner and its host, with plans."""
    names = [p.shown for p in parents]
    return [name if names.count(name) == 1 else f"{name}, {p.plans}" for name, p in zip(names, parents)]


@dataclass(frozen=True)
class Stitching:
    """What is ours alone in a configuration of plans: how its stitches are trained, between which parents, the host
    first, and a digest of the host's preprocessed `data`, None where that is not known."""

    training: Training
    parents: tuple[ParentRecord, ...]
    data: str | None = None

    @classmethod
    def of(cls, configuration: Mapping) -> Stitching:
        """Of a configuration of plans; fields that this version does not know are passed over.

        Raises:
            StitchError: there is none, or it is not readable.
        """
        found = cls.find(configuration)
        if found is None:
            raise StitchError("these plans do not say what was stitched; run nnUNetv2_train_stitch first")
        return found

    @classmethod
    def find(cls, configuration: Mapping) -> Stitching | None:
        """As `of`; None where there is none."""
        said = configuration.get(STITCHING_KEY)
        if not said:
            return None
        try:
            found = cls(_read(Training, said["training"]), tuple(_read(ParentRecord, p) for p in said["parents"]),
                        said.get("data"))
            for parent in found.parents:
                [(str(fold), entry["fold"]) for fold, entry in parent.folds.items()]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise StitchError(f"plans.json does not say readably what was stitched ({type(error).__name__}: {error}); "
                              f"copy it again from its source") from error
        return found

    def put_into(self, configuration: dict) -> None:
        """Write it into a configuration of plans, which is changed."""
        configuration[STITCHING_KEY] = {"training": asdict(self.training), "parents": [asdict(p) for p in self.parents],
                                        "data": self.data}


def _read(kind: type, said: Mapping) -> Any:
    return kind(**{f.name: said[f.name] for f in fields(kind) if f.name in said})


def record_parent(party: ModelFolder, results: str, folds: dict[int | str, int | str],
                  name: str = "", licence: str = "") -> ParentRecord:
    """A `ParentRecord`.

    Args:
        results: nnUNet_results; the folder is recorded relative to it where it lies inside, absolute elsewhere.
        folds: stitched fold -> the party's.
        name, licence: what came with the model.
    """
    paths = {s: party.checkpoint_path(own) for s, own in folds.items()}
    return ParentRecord(
        party.dataset_name, party.trainer, party.plans_name, party.configuration, party.checkpoint_name,
        recorded(party.path, results),
        {str(s): {"fold": str(own), "sha256": sha256(paths[s])} for s, own in folds.items()},
        name, licence, party.is_adapted,
    )


def recorded_checkpoint(folder: str, checkpoint: str, fold: int | str, results: str) -> str:
    """Where a parent's checkpoint lies: `folder` as a record names it, `fold` the parent's."""
    return os.path.join(found_again(folder, results), f"fold_{fold}", checkpoint)


def stitched_plans(host: ModelFolder, partners: Sequence[ModelFolder], layout: Layout, plans_name: str,
                   setting: Setting, positions: Sequence[int] | None, training: Training,
                   parents: Sequence[ParentRecord], bridges: Sequence[Bridge | None] = (),
                   data: str | None = None) -> dict:
    """Plans with one stitched configuration.

    `data_identifier` stays the host's, so that the host's preprocessed data are reused.

    Args:
        layout: the matches.
        plans_name: of these plans.
        setting: how the switches stand until a position is deployed.
        positions: with stitches; None for all.
        training: how these are fitted.
        parents: where the weights of host and partners come from.
        bridges: to each partner, see `bridging`; none where all agree with the host.
        data: digest of the host's preprocessed data.
    """
    needed = any(b is not None and not b.is_identity for b in bridges)
    plans = copy.deepcopy(host.plans)
    plans["plans_name"] = plans_name
    plans["configurations"] = {}
    configuration = copy.deepcopy(host.configuration_manager.configuration)
    configuration["architecture"] = {
        "network_class_name": CLASS_PATH,
        "arch_kwargs": {
            "parents": [p.network_spec for p in (host, *partners)],
            "matches": [asdict(m) for m in layout.matches],
            "positions": None if positions is None else list(positions),
            "setting": setting.to_json(),
            "regions": bool(host.label_manager.has_regions),
            **({"bridges": [None if b is None or b.is_identity else b.to_json() for b in bridges]} if needed else {}),
        },
        "_kw_requires_import": [],
    }
    Stitching(training, tuple(parents), data).put_into(configuration)
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
    """Fill the parents of a supernet from their own model folders, checking the sha256 named in the plans. Returns the
    host's axes along which all of them may be mirrored, None for none: a parent that was trained without mirroring
    has never seen a mirrored image.

    Raises:
        StitchError: a missing, changed or unreadable checkpoint, or weights that do not fit.
    """
    allowed = []
    for party, spec, record in zip(network.parties, network.parents, Stitching.of(configuration).parents):
        if str(fold) not in record.folds:
            raise StitchError(f"the plans name no {party} weights for fold {fold}, only for folds "
                              f"{', '.join(record.folds)}; run nnUNetv2_train_stitch with -f {fold}")
        path = record.path(fold, results)
        if not os.path.isfile(path):
            raise StitchError(f"{path}, the {party} that was stitched, does not exist; if it was moved, run "
                              f"nnUNetv2_train_stitch with --select and -m_{'a' if party == 'host' else 'b'} and its "
                              f"present place, or put it back")
        checkpoint = load_parent(path)
        weights = network_weights(checkpoint)
        require_digest(path, record.sha256(fold), "run nnUNetv2_train_stitch again")
        with torch.device("meta"):
            whole = build_parent(spec, *network.shape_of(party))
        load_weights(getattr(network, party), weights, path, whole)
        axes = checkpoint.get("inference_allowed_mirroring_axes") or ()
        terms = network.terms.get(party)
        allowed.append({terms.axes[a] for a in axes} if terms else set(axes))
    return tuple(sorted(set.intersection(*allowed))) or None


def layout_of(network: StitchedEnsemble) -> Layout:
    """The layout of a stitched ensemble, its parents traced anew."""
    with torch.device("meta"):
        nodes = {party: layer_nodes(trace(build_parent(spec, *network.shape_of(party))), network.shape_of(party)[0])
                 for party, spec in zip(network.parties, network.parents)}
    return Layout(nodes, [Match(**m) for m in network.matches])


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
