"""Graph breaks of the deployed network under torch.compile, for settings and parties of every kind."""

import torch
from common import SIZES, plain_unet, supernet

from nnunetv2_stitch.bridging.bridge import Bridge, Intensity
from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.graph import layer_nodes, match_layers, trace
from nnunetv2_stitch.stitching.network import StitchedEnsemble, build_parent
from nnunetv2_stitch.stitching.setting import Setting

RATIO = (1.25, 0.8)


def bridged(spec: dict) -> StitchedEnsemble:
    """A partner of other spacing and normalisation that does not know one label."""
    nodes = layer_nodes(trace(build_parent(spec, 1, 3)), 1)
    bridge = Bridge(1, 3, (0,), (Intensity(scale=2.0, lower=-1.0),), (0, 1), RATIO, (4, 4), ((0,), (1, 2), ()))
    matches = [vars(m) for m in match_layers(nodes, nodes, ratio=RATIO)]
    return StitchedEnsemble(1, 3, [spec, spec], matches, supernet=True, bridges=[bridge.to_json()])


def cases() -> dict[str, tuple[StitchedEnsemble, Setting]]:
    size = SIZES["tiny"][2]
    spec = plain_unet(2, size.stages, size.width, size.widest)
    pair, star = supernet(spec, "cpu"), supernet(spec, "cpu", 4)
    chosen = [next(p for p in star.positions[8:] if star.party_at(p) == party) for party in star.parties[1:]]
    return {
        "average at one position": (pair, Setting.average_at(5)),
        "average at every position": (pair, all_average(pair)),
        "mixing weights at every position": (pair, Setting.weighted(pair.positions,
                                                                    [(-0.2, 1.3)] * len(pair.positions))),
        "one direction stitched, host's head": (pair, Setting({5: ("stitched", "own")}, "host")),
        "four parties": (star, Setting.average_at(*chosen)),
        "host's share 0.7, logits": (pair, Setting({5: "average"}, combine="logits", host_share=0.7)),
        "partner on another grid": (bridged(spec), Setting.average_at(5)),
    }


def graph_breaks() -> dict[str, int]:
    found = {}
    for name, (net, setting) in cases().items():
        torch._dynamo.reset()
        explained = torch._dynamo.explain(net.deployed(setting))(torch.randn(1, 1, 32, 32))
        found[name] = explained.graph_break_count if explained.graph_count == 1 else max(1, explained.graph_break_count)
    return found


@torch.inference_mode()
def main() -> None:
    for name, count in graph_breaks().items():
        print(f"graph breaks {count}: {name}")


if __name__ == "__main__":
    main()
