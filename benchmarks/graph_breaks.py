"""Graph breaks of the deployed network under torch.compile, for settings and parties of every kind."""

from collections.abc import Collection

import torch
from common import SIZES, plain_unet, supernet

from nnunetv2_stitch.bridging.bridge import Bridge, Intensity
from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.graph import layer_nodes, match_layers, trace
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.setting import Setting

RATIO = (1.25, 0.8)


def bridged(spec: dict) -> StitchedEnsemble:
    """A partner of other spacing and normalisation that does not know one label."""
    nodes = layer_nodes(trace(build_parent(spec, 1, 3)), 1)
    bridge = Bridge(1, 3, (0,), (Intensity(scale=2.0, lower=-1.0),), (0, 1), RATIO, (4, 4), ((0,), (1, 2), ()))
    matches = [vars(m) for m in match_layers(nodes, nodes, ratio=RATIO)]
    return StitchedEnsemble(1, 3, [spec, spec], matches, supernet=True, bridges=[bridge.to_json()])


def four_parties(spec: dict) -> StitchedEnsemble:
    return supernet(spec, "cpu", 4)


def pair(spec: dict) -> StitchedEnsemble:
    return supernet(spec, "cpu")


def one_of_each(net: StitchedEnsemble) -> Setting:
    return Setting.average_at(*(next(p for p in net.positions[8:] if net.party_at(p) == party)
                                for party in net.parties[1:]))


CASES = {
    "average at one position": (pair, lambda net: Setting.average_at(5)),
    "average at every position": (pair, all_average),
    "mixing weights at every position": (pair, lambda net: Setting.weighted(net.positions,
                                                                            [(-0.2, 1.3)] * len(net.positions))),
    "one direction stitched, host's head": (pair, lambda net: Setting({5: ("stitched", "own")}, "host")),
    "host's share 0.7, logits": (pair, lambda net: Setting({5: "average"}, combine="logits", host_share=0.7)),
    "four parties": (four_parties, one_of_each),
    "partner on another grid": (bridged, lambda net: Setting.average_at(5)),
}


def graph_breaks(names: Collection[str] = tuple(CASES)) -> dict[str, int]:
    size, found = SIZES["tiny"][2], {}
    spec = plain_unet(2, size.stages, size.width, size.widest)
    for name in names:
        build, setting_of = CASES[name]
        net = build(spec)
        torch._dynamo.reset()
        explained = torch._dynamo.explain(net.deployed(setting_of(net)))(torch.randn(1, 1, 32, 32))
        found[name] = explained.graph_break_count if explained.graph_count == 1 else max(1, explained.graph_break_count)
    return found


@torch.inference_mode()
def main() -> None:
    for name, count in graph_breaks().items():
        print(f"graph breaks {count}: {name}")


if __name__ == "__main__":
    main()
