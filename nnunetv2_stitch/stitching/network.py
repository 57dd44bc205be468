"""The stitched ensemble as a network that nnU-Net builds from plans alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph.nodes import layer_nodes
from nnunetv2_stitch.graph.tracing import spatial_dims, trace
from nnunetv2_stitch.stitching.description import Description
from nnunetv2_stitch.stitching.gated import Gated
from nnunetv2_stitch.stitching.joining import join, prune
from nnunetv2_stitch.stitching.layers import Heads, SameSize, Switch
from nnunetv2_stitch.stitching.ordering import relative_sizes
from nnunetv2_stitch.stitching.regrid import InputBridge, OutputBridge, Regrid
from nnunetv2_stitch.stitching.setting import SIDES, Setting, decode_setting, encode_setting, in_ranges

SETTING_KEY = "_extra_state"
CLASS_PATH = "nnunetv2_stitch.stitching.network.StitchedEnsemble"


class StitchedEnsemble(Description):
    """All parents, their stitches and switches (arXiv 2512.17592), described by plain JSON.

    Input `(B, C, *spatial)`, output logits `(B, K, *spatial)`. A star: every stitch is between the host and one
    partner. The deployed network holds only what its setting needs; `supernet=True` keeps all stitches and all parents
    whole, for training and for choosing a position. The parents are frozen and always in eval mode. The setting travels
    in the state dict: loading weights that were saved under another setting re-specialises the network, because
    nnU-Net's predictor loads the weights of several folds into one network and folds may differ.

    Args:
        input_channels, num_classes: as nnU-Net gives them.
        parents: dicts `{network_class_name, arch_kwargs, _kw_requires_import}`, host first, then its partners; or
            networks, see `fitting.any_networks`, which are copied.
        matches: the fields of `graph.matching.Match`, in order of the host's layers.
        setting: see `Setting.to_json`.
        positions: which matches carry stitches; all if None.
        regions: region-based training (sigmoid) instead of softmax.
        supernet: keep everything.
        bridges: what lies between the host's terms and each partner's network (`bridging.bridge.Bridge`), None where
            the two agree.
        gate: `gating.gate.GateOptions` as JSON: an ensemble gives each image's parties the shares of its gate. None:
            even shares for all images.
        deep_supervision: accepted because nnU-Net passes it; stitched ensembles have one output.

    Raises:
        StitchError: a parent that cannot be built or traced, or matches that do not fit the parents.
    """

    def __init__(self, input_channels: int, num_classes: int, parents: Sequence[Mapping], matches: Sequence[Mapping],
                 setting: Mapping | None = None, positions: Sequence[int] | None = None, regions: bool = False,
                 supernet: bool = False, bridges: Sequence[Mapping | None] | None = None,
                 deep_supervision: bool | None = None, gate: Mapping | None = None):
        super().__init__(input_channels, num_classes, parents, matches, regions, bridges, gate)
        self.supernet = supernet
        self.convolution_dtype: torch.dtype | None = None
        self.uses_gate = gate is not None
        self.shares_seen: list[torch.Tensor] | None = None  # `(B, parties)` of all passes, where someone wants them
        self.positions = list(range(len(matches))) if positions is None else sorted(positions)
        self.setting = Setting.from_json(setting or {})
        unknown = set(self.setting.switches) - set(self.positions)
        if unknown:
            raise StitchError(f"no stitch at position {min(unknown)}; there are {len(self.positions)} positions")
        self._build()

    def _build(self) -> None:
        root = nn.Module()
        graphs = {}
        for party, spec in zip(self.parties, self.parents):
            traced = trace(self.parent(party, spec))
            root.add_module(party, traced)
            graphs[party] = traced.graph
        dims = spatial_dims(root.host)
        if self.is_from_plans and any(spatial_dims(getattr(root, p)) != dims for p in self.parties):
            raise StitchError("a 2d network cannot be stitched to a 3d network")
        root.switches = nn.ModuleDict({str(p): self._switch_pair(p, dims) for p in self.positions})
        root.bridge = self._bridge()
        root.heads = Heads(regions=self.regions, unknown=[
            self.terms[p].unknown_outputs if p in self.terms else () for p in self.parties[1:]])
        self._set(root, self.setting)
        joined = join(root, graphs, [(self.party_at(p), m["host"], m["partner"]) for p, m in enumerate(self.matches)],
                      self.positions)
        gated = Gated(self, root, graphs) if self.gate_options else None
        if not self.supernet:
            prune(joined, self.setting, self._relative_sizes({p: getattr(root, p) for p in graphs}), gated is not None)
        for part in self.parts:
            self.add_module(part, root.gate if part == "gate" else getattr(joined, part, nn.Module()))
        for party in self.parties:
            getattr(self, party).requires_grad_(False)
        # Not registered as a module: it shares its leaves with the parts above, which name the weights.
        self.__dict__["joined"], self.__dict__["gated"] = joined, gated
        self.eval()

    def _relative_sizes(self, traced: Mapping[str, fx.GraphModule]) -> dict[str, float]:
        unknown = "refuse" if self.is_from_plans else "leave_out"
        layers = {p: layer_nodes(t, self.shape_of(p)[0], unknown=unknown) for p, t in traced.items()}
        return relative_sizes(layers, self.matches, {p: math.prod(t.ratio) for p, t in self.terms.items()})

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.parties, "switches", "bridge", "heads", *(["gate"] if self.gate_options else []))

    def _bridge(self) -> nn.Module:
        bridge = nn.Module()
        for party, terms in self.terms.items():
            parts = nn.Module()
            if terms.changes_input:
                parts.input = InputBridge(terms)
            if terms.changes_output:
                parts.output = OutputBridge(terms)
            bridge.add_module(party, parts)
        bridge.regrid = nn.ModuleDict({str(p): self._regrid_pair(p) for p in self.positions if self.other_grid_at(p)})
        return bridge

    def _regrid_pair(self, position: int) -> nn.ModuleDict:
        if self.matches[position].get("resized"):
            return nn.ModuleDict({s: SameSize() for s in SIDES})
        strides = [self.matches[position][f"{side}_stride"] for side in SIDES]
        return nn.ModuleDict({s: Regrid(self.terms[self.party_at(position)], s, *strides) for s in SIDES})

    def _switch_pair(self, position: int, dims: int) -> nn.ModuleDict:
        channels = [self.matches[position][f"{side}_channels"] for side in SIDES]
        if not self.is_from_plans:
            dims = len(self.matches[position]["host_stride"])
        return nn.ModuleDict({s: Switch(dims, other, own) for s, own, other in zip(SIDES, channels, channels[::-1])})

    def forward(self, x: torch.Tensor, objective=None) -> torch.Tensor:
        """Logits of `x`; with `objective`, `objective(self, x)` instead, so that DDP sees every training pass."""
        if objective is not None:
            return objective(self, x)
        return self.gated(x) if self.is_gated and not x.is_meta else self.joined(x)

    @property
    def is_gated(self) -> bool:
        """Whether a gate decides on the shares; `uses_gate` switches it off for a while."""
        return self.gated is not None and self.uses_gate and self.setting.output == "ensemble"

    def train(self, mode: bool = True) -> StitchedEnsemble:
        """Stitches have no train mode and the parents are frozen in eval mode, so only the flag changes."""
        super().train(False)
        self.training = mode
        return self

    def switch(self, position: int, side: str) -> Switch:
        return self.switches.get_submodule(f"{position}.{side}")

    def stitch_parameters(self) -> list[nn.Parameter]:
        """What is trained: weights and biases of all stitches."""
        return [p for name, p in self.named_parameters() if name.startswith("switches.")]

    def stitch_state(self) -> dict[str, torch.Tensor]:
        return {k: v for k, v in self.state_dict().items() if k.startswith("switches.")}

    def set_position(self, position: int | str) -> None:
        """Choose what a supernet answers with.

        Args:
            position: the index of a match, at which both parents' maps are averaged and behind which both go on (the
                paper's pair); `all` averages at every position. Their answers are averaged. Without stitches:
                `ensemble` averages the parents' answers, `host` or `partner` is one parent alone, to the last bit.

        Raises:
            StitchError: there is no such position.
        """
        if position in ("ensemble", *self.parties):
            positions, output = (), position
        elif position == "all":
            positions, output = self.positions, "ensemble"
        elif not isinstance(position, bool) and position in self.positions:
            positions, output = (position,), "ensemble"
        else:
            raise StitchError(f"there is no position {position!r}; positions are {in_ranges(self.positions)}, and "
                              f"all, ensemble, {', '.join(self.parties)}")
        self.apply_setting(Setting.average_at(*positions, output=output, combine=self.setting.combine))

    def apply_setting(self, setting: Setting) -> None:
        """Set the switches and the output of a supernet."""
        if not self.supernet:
            raise StitchError("only a supernet can change its setting; load other weights instead")
        self._set(self, setting)
        self.setting = setting

    def _set(self, root: nn.Module, setting: Setting) -> None:
        """Set the switches and heads below `root`. All that are averaged behind one layer of the host count alike."""
        averaged: Counter = Counter()  # by layer of a parent: maps beside the first
        mixed: dict[tuple[str, str], tuple[int, ...]] = {}  # by layer of a parent: whose maps are in what is read
        for position in self.positions:
            pair = self.parties[0], self.party_at(position)
            for side, party, beside in zip(SIDES, pair, pair[::-1]):
                layer = party, self.matches[position][side]
                switch = root.switches.get_submodule(f"{position}.{side}")
                state = setting.state(position, side)
                switch.state = "average" if isinstance(state, float) else state
                switch.mixing_weight = state if isinstance(state, float) else 1 / (2 + averaged[layer])
                other = self.parties.index(beside)
                switch.parties = mixed.get(layer, (self.parties.index(party),)), other
                if state != "own":
                    averaged[layer] = averaged[layer] + 1 if switch.state == "average" else 0
                    mixed[layer] = (*switch.parties[0], other)
                    if self.gate_options and state == "stitched":
                        switch.state, switch.mixing_weight = "average", 1.0
        if setting.output not in ("ensemble", *self.parties):
            raise StitchError(f"output {setting.output!r} is not one of ensemble, {', '.join(self.parties)}")
        if self.gate_options and setting.host_share is not None:
            raise StitchError("a gate gives the host its share, so a setting with host_share has no place for one")
        root.heads.output = None if setting.output == "ensemble" else self.parties.index(setting.output)
        root.heads.combine, root.heads.host_share = setting.combine, setting.host_share

    def specialise(self, setting: Setting) -> None:
        """Rebuild a deployed network for another setting. The weights are undefined until they are loaded."""
        device = next(self.parameters()).device
        self.setting = setting
        if self.is_from_plans:
            with torch.device("meta"):
                self._build()
            for part in self.parts:
                getattr(self, part).to_empty(device=device)
        else:  # networks from anywhere may hold more than their state dict
            self._build()
            self.to(device)
        if self.convolution_dtype is not None:
            self.store_convolutions(self.convolution_dtype)

    def store_convolutions(self, dtype: torch.dtype) -> None:
        """Keep the weights of all convolutions in a half precision, also those that are loaded from now on. Under
        autocast to that precision the answers are the same to the last bit, because autocast rounds the weights so at
        every call. Without autocast the network does not run any more. For prediction: its state is rounded for good.
        """
        self.convolution_dtype = dtype
        for module in self.modules():
            if isinstance(module, _ConvNd):
                module.to(dtype)

    def like(self, setting: Setting, supernet: bool = False,
             positions: Sequence[int] | None = None) -> StitchedEnsemble:
        """A network of the same parents under `setting`, without their weights; `positions` instead of its own."""
        return StitchedEnsemble(self.input_channels, self.num_classes, self.parents, self.matches, setting.to_json(),
                                self.positions if positions is None else positions, self.regions, supernet,
                                self.bridges, gate=self.gate_json())

    def without_memory(self) -> StitchedEnsemble:
        """The same network under the same setting on the meta device, where nothing is computed or stored."""
        with torch.device("meta"):
            return self.like(self.setting, self.supernet)

    def deployed_without_memory(self, setting: Setting) -> StitchedEnsemble:
        with torch.device("meta"):
            return self.like(setting)

    def deployed(self, setting: Setting) -> StitchedEnsemble:
        """The pruned network of a supernet under `setting`, e.g. its own `.setting`, with copies of the weights it
        needs, on the CPU."""
        network = self.like(setting)
        weights = {k: v.detach().cpu().clone() for k, v in self.state_dict().items() if k != SETTING_KEY}
        network.load_state_dict({**weights, SETTING_KEY: encode_setting(setting)})
        return network

    def get_extra_state(self) -> torch.Tensor:
        return encode_setting(self.setting)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Nothing to do: load_state_dict has read the setting."""

    def load_state_dict(self, state_dict: Mapping, strict: bool = True, assign: bool = False):
        """As torch's, after taking over the setting saved with the weights. A deployed network ignores what only
        other settings need.

        Raises:
            StitchError: the weights lack what their setting needs.
        """
        setting = decode_setting(state_dict[SETTING_KEY]) if SETTING_KEY in state_dict else self.setting
        if setting != self.setting:
            (self.apply_setting if self.supernet else self.specialise)(setting)
        own = self.state_dict()
        missing = sorted(set(own) - set(state_dict) - {SETTING_KEY})
        if missing:
            raise StitchError(f"the weights lack {missing[0]} and {len(missing) - 1} more tensors that this setting "
                              f"needs (output {setting.output}, {len(setting.switches)} switches set)")
        if not self.supernet:
            state_dict = {k: v for k, v in state_dict.items() if k in own}
        return super().load_state_dict(state_dict, strict, assign)
