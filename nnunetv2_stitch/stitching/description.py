"""What a stitched ensemble is made of, as plans describe it: parents, matches, bridges and the options of a gate."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunetv2_stitch.bridging.bridge import Bridge
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.gating.gate import GateOptions
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.stitching.empty_weights import nothing_filled_on_meta
from nnunetv2_stitch.stitching.setting import party_names


class Description(nn.Module):
    """The part of `StitchedEnsemble` that no setting and no weight changes; for its arguments see there."""

    def __init__(self, input_channels: int, num_classes: int, parents: Sequence[Mapping], matches: Sequence[Mapping],
                 regions: bool, bridges: Sequence[Mapping | None] | None, gate: Mapping | None):
        super().__init__()
        if len(parents) < 2:
            raise StitchError(f"a stitched ensemble has at least two parents, not {len(parents)}")
        self.input_channels, self.num_classes = input_channels, num_classes
        self.parents, self.matches, self.regions, self.bridges = parents, matches, regions, bridges
        self.parties = party_names(len(parents))
        self.terms = self._terms()
        self.gate_options = None if gate is None else GateOptions.from_json(gate, len(parents) - 1)

    def _terms(self) -> dict[str, Bridge]:
        """The bridge to each partner that has one."""
        partners = self.parties[1:]
        bridges = self.bridges or [None] * len(partners)
        if len(bridges) != len(partners):
            raise StitchError(f"plans.json: {len(bridges)} bridges for {len(partners)} partners")
        terms = {p: Bridge.from_json(b) for p, b in zip(partners, bridges) if b is not None}
        if any(len(t.outputs) != self.num_classes or max(t.channels) >= self.input_channels for t in terms.values()):
            raise StitchError("plans.json: the bridge to a partner was made for another host")
        return terms

    @property
    def is_from_plans(self) -> bool:
        """Whether the parents are described by plans, so that nnU-Net can build the network."""
        return not any(isinstance(spec, nn.Module) for spec in self.parents)

    def require_plans(self) -> None:
        """Raises StitchError for a network that nnU-Net could not build."""
        if not self.is_from_plans:
            raise StitchError("these networks came without nnU-Net plans, so what is stitched of them cannot become an "
                              "nnU-Net model folder; keep it with torch.save(ensemble.state_dict(), FILE)")

    def parent(self, party: str, spec: Mapping | nn.Module) -> nn.Module:
        """A parent with random weights, or a copy of the network that is one."""
        if not isinstance(spec, nn.Module):
            return build_parent(spec, *self.shape_of(party))
        network = copy.deepcopy(spec).eval()
        return network.to("meta") if torch.empty(0).is_meta else network

    def party_at(self, position: int) -> str:
        """The partner that the host is joined with at a position."""
        party = self.matches[position].get("party", self.parties[1])
        if party not in self.parties[1:]:
            raise StitchError(f"plans.json: a match with {party!r}, which is none of {', '.join(self.parties[1:])}")
        return party

    def shape_of(self, party: str) -> tuple[int, int]:
        """Input channels and outputs of one parent."""
        if party not in self.terms:
            return self.input_channels, self.num_classes
        return self.terms[party].input_channels, self.terms[party].num_outputs

    def other_grid_at(self, position: int) -> bool:
        """Whether the two maps of a position lie on different grids, or may have different sizes."""
        if self.matches[position].get("resized"):
            return True
        terms = self.terms.get(self.party_at(position))
        return terms is not None and terms.changes_grid

    def gate_json(self) -> dict | None:
        return None if self.gate_options is None else self.gate_options.to_json()


def build_parent(spec: Mapping, input_channels: int, num_classes: int) -> nn.Module:
    """One parent network with nnU-Net's own initialisation, from its part of a plans file.

    Raises:
        StitchError: the class named in the plans is not allowed or does not take these arguments.
    """
    require_allowed_classes(dict(spec))
    try:
        with nothing_filled_on_meta():
            return get_network_from_plans(spec["network_class_name"], dict(spec["arch_kwargs"]),
                                          spec["_kw_requires_import"], input_channels, num_classes,
                                          allow_init=True, deep_supervision=False)
    except (AssertionError, TypeError, ValueError, KeyError, RuntimeError) as error:
        name = spec.get("network_class_name")
        raise StitchError(f"network {name} cannot be built from its plans: {error}") from error
