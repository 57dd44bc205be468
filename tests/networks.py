"""Small parent networks for the tests, as plans describe them."""

from __future__ import annotations

from dataclasses import asdict

import torch

from nnunetv2_stitch.graph import layer_nodes, match_star, trace
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.setting import party_names

KINDS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
CHANNELS, CLASSES = 1, 3


def spec(kind: str = "PlainConvUNet", dim: int = 2, stages: int = 3, convs: int = 2, width: int = 6,
         norm: str = "InstanceNorm", nonlin: str = "LeakyReLU") -> dict:
    """The architecture entry of a plans file for a small network of a supported class."""
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": [min(width * 2**i, 24) for i in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d", "kernel_sizes": [[3] * dim] * stages,
            "strides": [[1] * dim] + [[2] * dim] * (stages - 1), blocks: [convs] * stages,
            "n_conv_per_stage_decoder": [convs] * (stages - 1), "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.{norm}{dim}d" if norm == "InstanceNorm"
            else f"torch.nn.modules.batchnorm.{norm}{dim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
            "nonlin": f"torch.nn.{nonlin}", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def build(description: dict, seed: int = 0) -> torch.nn.Module:
    """A parent network with random weights that are not the trivial ones of initialisation (norms included)."""
    torch.manual_seed(seed)
    network = build_parent(description, CHANNELS, CLASSES).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter) + (0.5 if name.endswith("norm.weight") else 0))
            elif "seg_layers" in name:
                parameter.copy_(torch.randn_like(parameter))
    return network


def matches_of(*parents: dict, positions: str = "all") -> list[dict]:
    nodes = {name: layer_nodes(trace(build_parent(s, CHANNELS, CLASSES)), CHANNELS)
             for name, s in zip(party_names(len(parents)), parents)}
    return [asdict(m) for m in match_star(nodes, positions)]


def ensemble(*parents: dict, networks=None, **arguments) -> StitchedEnsemble:
    """A supernet of a host and its partners, with the weights of `networks` where given."""
    torch.manual_seed(1)
    arguments = {"supernet": True, "matches": matches_of(*parents), **arguments}
    net = StitchedEnsemble(CHANNELS, CLASSES, list(parents), **arguments)
    for party, network in zip(net.parties, networks or ()):
        weights = network.state_dict()
        module = getattr(net, party)
        module.load_state_dict({k: weights[k] for k in module.state_dict()})
    return net


def image(dim: int = 2, batch: int = 2, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, CHANNELS, *[size] * dim, generator=torch.Generator().manual_seed(seed))
