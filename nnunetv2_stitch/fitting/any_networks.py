"""A stitched ensemble of any two networks, without nnU-Net's plans: joined, fitted and set in a few lines.

Known from the paper (arXiv 2512.17592): stitching is not tied to one architecture. Ours: which layers are known.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import fx, nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fitting.closed_form import DirectMatching, all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss
from nnunetv2_stitch.graph.matching import Match, match_layers
from nnunetv2_stitch.graph.nodes import LayerNode, layer_nodes, unknown_layer
from nnunetv2_stitch.graph.propagation import function_name, shapes_of
from nnunetv2_stitch.graph.tracing import spatial_dims, trace
from nnunetv2_stitch.stitching.network import StitchedEnsemble as Network
from nnunetv2_stitch.stitching.runner import GraphRunner
from nnunetv2_stitch.stitching.setting import SIDES, Setting

CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d
PROBABILITIES = (nn.Softmax, nn.Softmax2d, nn.Sigmoid)


class StitchedEnsemble(Network):
    """A stitched ensemble as nnU-Net builds it from plans, or of any two networks with `from_networks`.

    Example:
        >>> ensemble = StitchedEnsemble.from_networks(host, partner, input_channels=3)
        >>> r2 = ensemble.fit(batches)
        >>> ensemble.set_position(20)
        >>> logits = ensemble(x)
    """

    @classmethod
    def from_networks(cls, host: nn.Module, partner: nn.Module, input_channels: int, *,
                      positions: str | Sequence[int] = "all", regions: bool = False) -> StitchedEnsemble:
        """Join two trained networks that torch.fx can trace: classifiers `(B, C, *spatial) -> (B, K)`, segmenters
        `(B, C, *spatial) -> (B, K, *spatial)`, and networks of vectors `(B, C) -> (B, K)`.

        Both are copied and frozen, in eval mode. Layers are matched that have the same stride; where padding or
        rounding give two such maps different sizes, the translated one is brought to the other's size. What lies
        behind a layer of an unknown kind carries no stitches. The stitches are random until `fit`.

        Args:
            host: the network whose images are at hand.
            partner: the other network, for the same input and the same outputs in the same order.
            input_channels: of both.
            positions: `all`, `blocks` (layers behind activations alone), or indices of matches.
            regions: the outputs are regions or labels that may overlap (sigmoid), instead of classes (softmax). Where
                the networks end in a softmax or a sigmoid themselves, their answers are averaged as they are.

        Returns:
            The ensemble with all stitches, set to `ensemble`: see `set_position`.

        Raises:
            StitchError: a network that cannot be traced, the two differ in dimensions or outputs, no layers match, or
                there is no such position.
        """
        pair = host, partner
        for party, network in zip(SIDES, pair):
            if not isinstance(network, nn.Module):
                raise StitchError(f"the {party} is {type(network).__name__}; give a torch.nn.Module")
        traced = [trace(copy.deepcopy(network).eval()) for network in pair]
        if spatial_dims(traced[0]) != spatial_dims(traced[1]):
            raise StitchError("the host works in {}d and the partner in {}d, so they cannot be stitched".format(
                *map(spatial_dims, traced)))
        for party, graph in zip(SIDES, traced):
            _require_channels(party, graph, input_channels)
        layers = [layer_nodes(t, input_channels, unknown="leave_out") for t in traced]
        num_classes = _outputs(layers)
        kinds = [_ends_in_probabilities(t) for t in traced]
        if kinds[0] != kinds[1]:
            raise StitchError("one of the networks ends in a softmax or a sigmoid and the other does not; take it off, "
                              "or put one behind the other network too")
        matches = match_layers(*layers, positions if isinstance(positions, str) else "all")
        if not matches:
            raise StitchError(_no_match(traced, input_channels))
        chosen = None if isinstance(positions, str) else sorted(set(positions))
        if chosen is not None and not set(chosen) <= set(range(len(matches))):
            raise StitchError(f"there are positions 0 to {len(matches) - 1}, not {chosen[-1]}")
        sizes = [{n.name: n.sizes for n in nodes} for nodes in layers]
        ensemble = cls(input_channels, num_classes, list(pair), [_described(m, *sizes) for m in matches],
                       Setting(combine="logits" if kinds[0] else "probabilities").to_json(), chosen, regions, True)
        own = next(host.parameters())
        ensemble.switches.to(own.dtype)
        return ensemble.to(own.device)

    @torch.no_grad()
    def fit(self, batches: Iterable[torch.Tensor | Sequence[torch.Tensor]]) -> dict[int, tuple[float, float]]:
        """Set every stitch in closed form, in one pass over the host's images.

        Args:
            batches: of images `(B, C, *spatial)`, or sequences that begin with such a batch, as data loaders give.

        Returns:
            R^2 by position, of the stitch to the host and of that to the partner: the share of the variance of that
            network's map that is explained from the other's.

        Raises:
            StitchError: no batch, a batch that is no finite images of these networks, or a network of which torch.fx
                has not seen all.
        """
        matching = DirectMatching(self)
        device, checked = next(self.parameters()).device, False
        if isinstance(batches, torch.Tensor):
            raise StitchError("fit takes batches, and this is one tensor; give a list of batches, such as [images]")
        for batch in batches:
            x = self._images(batch).to(device)
            if not checked:
                self._require_whole(x[:1])
                checked = True
            matching.update(x)
        if not checked:
            raise StitchError("stitches are fitted to images, and there was no batch; give an iterable of batches")
        return matching.solve()

    def double_batched_loss(self, x: torch.Tensor) -> torch.Tensor:
        """The paper's double-batched loss of images `(B, C, *spatial)`: how far maps and answers are, with every
        stitch in use, from those of the untouched networks, relative to their variance. A scalar with gradients to
        `stitch_parameters()`. The present position is not changed."""
        before = self.setting
        self.apply_setting(Setting(all_average(self).switches, before.output, before.combine))
        try:
            return double_batched_loss(self, x)
        finally:
            self.apply_setting(before)

    def _images(self, batch) -> torch.Tensor:
        """The images of one batch of a data loader."""
        if isinstance(batch, Mapping):
            raise StitchError(f"a batch is a mapping of {', '.join(map(str, batch))}; give images alone, as in "
                              f"fit(batch['image'] for batch in loader)")
        x = batch if isinstance(batch, torch.Tensor) or not len(batch) else batch[0]
        if not isinstance(x, torch.Tensor):
            raise StitchError(f"a batch of images is a torch tensor, and this is {type(x).__name__}; convert it first")
        own = next(self.parameters()).dtype
        if x.ndim < 2 or not len(x) or x.shape[1] != self.input_channels or x.dtype != own:
            raise StitchError(f"a batch of images has shape (B, {self.input_channels}, ...) and type {own}, with "
                              f"at least one image; this one has shape {tuple(x.shape)} and type {x.dtype}")
        if not x.isfinite().all():
            raise StitchError("a batch holds NaN or infinite values; stitches cannot be fitted to them")
        return x

    def _require_whole(self, x: torch.Tensor) -> None:
        """A network may ask in its forward whether it is given a tensor, and torch.fx gives it something else."""
        runner = GraphRunner(self.joined)
        for party, network, head in zip(self.parties, self.parents, runner.output.args):
            modes = [(module, module.training) for module in network.modules()]
            wanted = network.eval()(x.to(next(network.parameters()).device, copy=True))
            wanted = (wanted[0] if isinstance(wanted, (list, tuple)) else wanted).to(x)  # deep supervision
            for module, mode in modes:
                module.training = mode
            try:
                seen = runner.run({runner.input: x}, stop=len(runner.nodes) - 1, on_switch=lambda _, own, __: own,
                                  only=runner.own_path(head))[head]
                same = seen.shape == wanted.shape and torch.allclose(seen, wanted, 1e-3,
                                                                     1e-3 * float(wanted.abs().max()))
            except RuntimeError:
                same = False
            if not same:
                raise StitchError(f"the {party}, {type(network).__qualname__}, answers otherwise than what torch.fx "
                                  f"has seen of it, so it cannot be stitched: its forward asks for what is only known "
                                  f"when it runs, or it has been changed since")

    def position_name(self, position: int) -> str:
        """The host's layer at a position, and the partner's where its path differs."""
        match = self.matches[position]
        own, other = match["host_path"], match["partner_path"]
        return own if own == other else f"{own} / {other}"


def _described(match: Match, host_sizes: dict, partner_sizes: dict) -> dict:
    return {**asdict(match), "resized": host_sizes[match.host] != partner_sizes[match.partner]}


def _require_channels(party: str, traced: fx.GraphModule, input_channels: int) -> None:
    """Raises StitchError where a convolution of the input takes another number of channels."""
    image = next(n for n in traced.graph.nodes if n.op == "placeholder")
    layers = [traced.get_submodule(n.target) for n in image.users if n.op == "call_module"]
    takes = [m.in_channels for m in layers if isinstance(m, CONVOLUTIONS)]
    if takes and takes[0] != input_channels:
        raise StitchError(f"the first convolution of the {party} takes {takes[0]} channels, and input_channels is "
                          f"{input_channels}")


def _outputs(layers: Sequence[Sequence[LayerNode]]) -> int:
    """How many both networks have, 0 where this is not known."""
    found = [nodes[-1].channels for nodes in layers]
    if not all(found):
        return max(found)
    if found[0] != found[1]:
        raise StitchError(f"the host has {found[0]} outputs and the partner {found[1]}; an ensemble needs the same")
    if len(layers[0][-1].stride) != len(layers[1][-1].stride):
        raise StitchError("one of the networks answers with a map and the other with a vector; an ensemble needs the "
                          "same")
    return found[0]


def _ends_in_probabilities(traced: fx.GraphModule) -> bool:
    head = traced.graph.output_node().args[0]
    if head.op == "call_module":
        return isinstance(traced.get_submodule(head.target), PROBABILITIES)
    return head.op in ("call_function", "call_method") and function_name(head) in ("softmax", "sigmoid")


def _no_match(traced: Sequence[fx.GraphModule], input_channels: int) -> str:
    unknown = [(name, unknown_layer(t, shapes_of(t, input_channels, spatial_dims(t))))
               for name, t in zip(("host", "partner"), traced)]
    first = next((f"; the first layer of the {name} that is not known to stitching is {layer}"
                  for name, layer in unknown if layer), "")
    return f"no two layers of these networks have the same stride, so nothing can be stitched{first}"
