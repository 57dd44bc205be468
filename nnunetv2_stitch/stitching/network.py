"""The stitched ensemble as a network that nnU-Net builds from plans alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunetv2_stitch.bridging.bridge import Bridge
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph.tracing import spatial_dims, trace
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.stitching.joining import join, prune
from nnunetv2_stitch.stitching.layers import Heads, Switch
from nnunetv2_stitch.stitching.regrid import InputBridge, OutputBridge, Regrid
from nnunetv2_stitch.stitching.setting import SIDES, Setting

PARTS = (*SIDES, "switches", "bridge", "heads")
SETTING_KEY = "_extra_state"
CLASS_PATH = "nnunetv2_stitch.stitching.network.StitchedEnsemble"


class StitchedEnsemble(nn.Module):
    """Both parents, their stitches and switches (arXiv 2512.17592), described by plain JSON.

    Input `(B, C, *spatial)`, output logits `(B, K, *spatial)`. The deployed network holds only what its setting
    needs; `supernet=True` keeps all stitches and both parents whole, for training and for choosing a position. The
    parents are frozen and always in eval mode. The setting travels in the state dict: loading weights that were
    saved under another setting re-specialises the network, because nnU-Net's predictor loads the weights of several
    folds into one network and folds may differ.

    Args:
        input_channels, num_classes: as nnU-Net gives them.
        parents: two dicts `{network_class_name, arch_kwargs, _kw_requires_import}`, host first.
        matches: dicts with the fx node names `host`, `partner` and `host_channels`, `partner_channels`.
        setting: see `Setting.to_json`.
        positions: which matches carry stitches; all if None.
        regions: region-based training (sigmoid) instead of softmax.
        supernet: keep everything.
        bridge: what lies between the host's terms and the partner's network (`bridging.bridge.Bridge`), None where
            both parties agree.
        deep_supervision: accepted because nnU-Net passes it; stitched ensembles have one output.

    Raises:
        StitchError: a parent that cannot be built or traced, or matches that do not fit the parents.
    """

    def __init__(self, input_channels: int, num_classes: int, parents: Sequence[Mapping], matches: Sequence[Mapping],
                 setting: Mapping | None = None, positions: Sequence[int] | None = None, regions: bool = False,
                 supernet: bool = False, bridge: Mapping | None = None, deep_supervision: bool | None = None):
        super().__init__()
        if len(parents) != 2:
            raise StitchError(f"a stitched ensemble has two parents, not {len(parents)}")
        self.input_channels, self.num_classes = input_channels, num_classes
        self.parents, self.matches, self.regions, self.supernet = parents, matches, regions, supernet
        self.bridge_json = bridge
        self.terms = None if bridge is None else Bridge.from_json(bridge)
        self.positions = list(range(len(matches))) if positions is None else sorted(positions)
        self.setting = Setting.from_json(setting or {})
        unknown = set(self.setting.switches) - set(self.positions)
        if unknown:
            raise StitchError(f"no stitch at position {min(unknown)}; there are {len(self.positions)} positions")
        self._build()

    def _build(self) -> None:
        root = nn.Module()
        graphs = []
        for side, spec in zip(SIDES, self.parents):
            traced = trace(build_parent(spec, *self.shape_of(side)))
            root.add_module(side, traced)
            graphs.append(traced.graph)
        dims = spatial_dims(root.host)
        if dims != spatial_dims(root.partner):
            raise StitchError("a 2d network cannot be stitched to a 3d network")
        root.switches = nn.ModuleDict({str(p): self._switch_pair(p, dims) for p in self.positions})
        root.bridge = self._bridge()
        root.heads = Heads(self.setting.output, self.setting.combine, self.regions, self.setting.host_share,
                           () if self.terms is None else self.terms.unknown_outputs)
        names = [(m["host"], m["partner"]) for m in self.matches]
        joined = join(root, *graphs, names, self.positions)
        if not self.supernet:
            prune(joined, self.setting)
        for part in PARTS:
            self.add_module(part, getattr(joined, part, nn.Module()))
        for parent in (self.host, self.partner):
            parent.requires_grad_(False)
        # Not registered as a module: it shares its leaves with the parts above, which name the weights.
        self.__dict__["joined"] = joined
        self.eval()
        if self.supernet:
            self.apply_setting(self.setting)

    def shape_of(self, side: str) -> tuple[int, int]:
        """Input channels and outputs of one parent."""
        if side == SIDES[0] or self.terms is None:
            return self.input_channels, self.num_classes
        return self.terms.input_channels, self.terms.num_outputs

    def _bridge(self) -> nn.Module:
        bridge = nn.Module()
        if self.terms is None:
            return bridge
        if len(self.terms.outputs) != self.num_classes or max(self.terms.channels) >= self.input_channels:
            raise StitchError("plans.json: the bridge to the partner was made for another host")
        if self.terms.changes_input:
            bridge.input = InputBridge(self.terms)
        if self.terms.changes_output:
            bridge.output = OutputBridge(self.terms)
        if self.terms.changes_grid:
            bridge.regrid = nn.ModuleDict({str(p): nn.ModuleDict({
                s: Regrid(self.terms, s, *(self.matches[p][f"{k}_stride"] for k in SIDES)) for s in SIDES})
                for p in self.positions})
        return bridge

    def _switch_pair(self, position: int, dims: int) -> nn.ModuleDict:
        channels = [self.matches[position][f"{side}_channels"] for side in SIDES]
        return nn.ModuleDict({s: Switch(dims, other, own) for s, own, other in zip(SIDES, channels, channels[::-1])})

    def forward(self, x: torch.Tensor, objective=None) -> torch.Tensor:
        """Logits of `x`; with `objective`, `objective(self, x)` instead, so that DDP sees every training pass."""
        return self.joined(x) if objective is None else objective(self, x)

    def train(self, mode: bool = True) -> StitchedEnsemble:
        """Stitches have no train mode and the parents are frozen in eval mode, so only the flag changes."""
        super().train(False)
        self.training = mode
        return self

    def switch(self, position: int, side: str) -> Switch:
        return self.switches.get_submodule(f"{position}.{side}")

    def stitch_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.startswith("switches.")]

    def stitch_state(self) -> dict[str, torch.Tensor]:
        return {k: v for k, v in self.state_dict().items() if k.startswith("switches.")}

    def apply_setting(self, setting: Setting) -> None:
        """Set the switches and the output of a supernet."""
        if not self.supernet:
            raise StitchError("only a supernet can change its setting; load other weights instead")
        for position in self.positions:
            for side in SIDES:
                self.switch(position, side).state = setting.state(position, side)
        self.heads.mode, self.heads.combine = setting.output, setting.combine
        self.heads.host_share = setting.host_share
        self.setting = setting

    def specialise(self, setting: Setting) -> None:
        """Rebuild a deployed network for another setting. The weights are undefined until they are loaded."""
        device = next(self.parameters()).device
        self.setting = setting
        with torch.device("meta"):
            self._build()
        for part in PARTS:
            getattr(self, part).to_empty(device=device)

    def deployed(self, setting: Setting) -> StitchedEnsemble:
        """The pruned network of a supernet under `setting`, with copies of the weights it needs, on the CPU."""
        network = StitchedEnsemble(self.input_channels, self.num_classes, self.parents, self.matches,
                                   setting.to_json(), self.positions, self.regions, bridge=self.bridge_json)
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


def build_parent(spec: Mapping, input_channels: int, num_classes: int) -> nn.Module:
    """One parent network with nnU-Net's own initialisation, from its part of a plans file.

    Raises:
        StitchError: the class named in the plans is not allowed or does not take these arguments.
    """
    require_allowed_classes(dict(spec))
    try:
        return get_network_from_plans(spec["network_class_name"], dict(spec["arch_kwargs"]),
                                      spec["_kw_requires_import"], input_channels, num_classes,
                                      allow_init=True, deep_supervision=False)
    except (AssertionError, TypeError, ValueError, KeyError, RuntimeError) as error:
        name = spec.get("network_class_name")
        raise StitchError(f"network {name} cannot be built from its plans: {error}") from error


def encode_setting(setting: Setting) -> torch.Tensor:
    """A setting as a uint8 tensor of JSON, so that it loads with `weights_only=True`."""
    return torch.tensor(list(json.dumps(setting.to_json(), sort_keys=True).encode()), dtype=torch.uint8)


def decode_setting(encoded: torch.Tensor) -> Setting:
    try:
        return Setting.from_json(json.loads(bytes(encoded.cpu().tolist())))
    except (ValueError, AttributeError, TypeError) as error:
        raise StitchError(f"the weights hold no readable switch setting ({error})") from error
