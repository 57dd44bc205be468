"""What a stitch training and a stitched prediction need in memory, by running both without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.fitting.cutting import AUTO, best_cuts
from nnunetv2_stitch.fitting.double_batched import double_batched_loss, groups
from nnunetv2_stitch.fitting.live_bytes import LiveBytes, Need
from nnunetv2_stitch.graph import layer_nodes, trace
from nnunetv2_stitch.nnunet_internals import sliding_window_slicers
from nnunetv2_stitch.selection.bands import Bands, bytes_per_answer, room_for_sums
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.plans import Stitching, supernet_from_plans
from nnunetv2_stitch.stitching.setting import Setting

FLOAT = torch.float32
HALF = torch.bfloat16  # stands for both halves, their size is the same
ADAM = 3  # times the stitches beside their gradients: themselves and two moments
LOOKED_AT = (0.1, 0.35, 0.5, 0.65, 0.9)  # shares of the positions that prediction is estimated at


@dataclass(frozen=True)
class SweepNeed:
    """Bytes for each of the sweep's answers to a case of the median size, and how many answers there are. As many are
    held at once as fit into `room` (now), at least one: the fewer, the more often parts of the network run again."""

    each: int
    answers: int
    room: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Weights, gradients, the optimiser's state and feature maps at their peak: of one training step as asked for; of
    the same with other `options`, by their flags; of predicting one patch; of predicting it with the larger parent
    alone; of the position sweep, in main memory. What libraries take for themselves, nnU-Net's buffers for a whole
    image and the CUDA context come on top."""

    training: Need
    options: Mapping[str, Need]
    prediction: Need
    parent: Need
    sweep: SweepNeed


def estimate_memory(configuration: Mapping, input_channels: int, num_classes: int,
                    fixed_positions: Sequence[int] = ()) -> MemoryEstimate:
    """Estimate for a stitched configuration of plans; the prediction's at `fixed_positions`, or the largest over some.
    """
    with torch.device("meta"):
        network = supernet_from_plans(configuration, input_channels, num_classes)
    network.apply_setting(all_average(network))
    training = Stitching.of(configuration).training
    image = (input_channels, *configuration["patch_size"])
    shape = (configuration["batch_size"], *image)
    asked = training.checkpoint_segments, training.positions_per_pass, training.half_targets
    auto = AUTO, None, False
    others = {"-checkpoint_segments auto": network} if asked != auto else {}
    if (blocks := block_positions(network)) and len(blocks) < len(network.positions):
        with torch.device("meta"):
            others["-checkpoint_segments auto -positions blocks"] = network.like(Setting(), True, blocks)
    return MemoryEstimate(
        training_need(network, shape, *asked),
        {flags: training_need(other, shape, *auto) for flags, other in others.items()},
        *prediction_needs(network, (1, *image), fixed_positions),
        sweep_need(configuration, network))


def block_positions(network: StitchedEnsemble) -> list[int]:
    """Positions of a supernet at which the layers of both parties end a block, nearly those of `-positions blocks`."""
    ends = {party: {n.name for n in layer_nodes(trace(_parent(network, i)), network.shape_of(party)[0]) if n.activation}
            for i, party in enumerate(network.parties)}
    return [p for p in network.positions if network.matches[p]["host"] in ends["host"]
            and network.matches[p]["partner"] in ends[network.party_at(p)]]


def training_need(network: StitchedEnsemble, shape: Sequence[int], segments: int | str | Sequence[int] = 1,
                  per_pass: int | None = None, half_targets: bool = False) -> Need:
    """Bytes of a training of a supernet on the meta device: of a step, which needs more than direct matching does.

    Args:
        shape: of a batch, `(B, C, *spatial)`.
        segments: pieces that are recomputed in the backward pass, their cuts, or `auto`.
        per_pass: positions whose stitches are trained in one step; None for all.
        half_targets: bfloat16 for what is kept of the reference stream.
    """
    parameters = sum(p.numel() for p in network.parameters())
    stitches = sum(p.numel() for p in network.stitch_parameters())
    fixed = FLOAT.itemsize * (parameters + (ADAM - 1) * stitches)
    mixed = network.without_memory().to(HALF)
    group = groups(network.positions, per_pass)[0]
    for twin in (network, mixed):
        twin.apply_setting(Setting.average_at(*group))
    compared = None if per_pass is None else group
    cuts = best_cuts(mixed, shape, compared, HALF) if segments == AUTO else segments
    found = []
    for twin, dtype in ((network, FLOAT), (mixed, HALF)):
        keep = torch.bfloat16 if half_targets else None
        found.append(fixed + step_bytes(twin, shape, cuts, compared, keep, dtype))
    # Autocast's copies of the weights: without checkpointing all of them are kept for the backward pass.
    found[1] += HALF.itemsize * (parameters if segments == 1 else stitches)
    return Need(*found)


def step_bytes(network: StitchedEnsemble, shape: Sequence[int], cuts: int | Sequence[int] = 1, compared=None,
               keep: torch.dtype | None = None, dtype: torch.dtype = FLOAT) -> int:
    """Peak of one step's maps and gradients beside weights and batch.

    Args:
        network: a supernet on the meta device, in `dtype`.
        shape: of a batch, `(B, C, *spatial)`.
        cuts, compared, keep: see `double_batched_loss`.
    """
    x = torch.empty(*shape, device="meta", dtype=dtype)
    with LiveBytes() as live:
        double_batched_loss(network, x, cuts, compared=compared, keep=keep).backward()
    network.zero_grad()
    return live.peak


def prediction_needs(network: StitchedEnsemble, shape: Sequence[int],
                     fixed_positions: Sequence[int] = ()) -> tuple[Need, Need]:
    """Of the deployed network and of the larger one of its parents, for an input `(1, C, *spatial)`."""
    positions = network.positions
    settings = [fixed_positions] if fixed_positions else [[positions[int(s * len(positions))]] for s in LOOKED_AT]
    deployed = [forward_need(network.deployed_without_memory(Setting.average_at(*at)), shape, half_weights=True)
                for at in settings]
    parents = [forward_need(_parent(network, i), shape) for i in range(len(network.parents))]
    return tuple(max(needs, key=lambda need: need.full) for needs in (deployed, parents))


def sweep_need(configuration: Mapping, network: StitchedEnsemble) -> SweepNeed:
    """Of a supernet's sweep over all its positions."""
    patch, batch = configuration["patch_size"], configuration["batch_size"]
    median = configuration.get("median_image_size_in_voxels") or patch
    shape = [max(round(m), p) for m, p in zip(median[-len(patch):], patch)]
    if len(shape) == 2:  # slices, of which a batch is looked at together
        shape = [batch, *shape]
    bands = Bands.of(sliding_window_slicers(shape, patch), batch)
    return SweepNeed(bytes_per_answer(bands, network.num_classes, shape),
                     len(network.parties) + 1 + 3 * len(network.positions), room_for_sums())


def _parent(network: StitchedEnsemble, index: int) -> nn.Module:
    with torch.device("meta"):
        return build_parent(network.parents[index], *network.shape_of(network.parties[index])).eval()


def forward_need(network: nn.Module, shape: Sequence[int], half_weights: bool = False) -> Need:
    """Bytes for one forward pass of a network on the meta device, weights included: in float32 on a CPU, in mixed
    precision on CUDA. `half_weights`: those of its convolutions are stored so in mixed precision, as our predictor
    does."""
    x = torch.empty(*shape, device="meta")
    weights = FLOAT.itemsize * sum(p.numel() for p in network.parameters())
    convolutions = sum(p.numel() for m in network.modules() if isinstance(m, _ConvNd) for p in m.parameters())
    return Need(forward_bytes(network, x, cpu_copies=True) + weights,
                forward_bytes(network, x) // 2 + weights - HALF.itemsize * half_weights * convolutions)


@torch.inference_mode()
def forward_bytes(network: Callable, x: torch.Tensor, cpu_copies: bool = False) -> int:
    """Peak of a forward pass's maps, without weights and input."""
    with LiveBytes(cpu_copies) as live:
        network(x)
    return live.peak
