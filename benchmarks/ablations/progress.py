"""Progress along the longest or the shortest path: what is matched between unlike plain U-Nets (2 and 3 convolutions
per stage; no data needed). A match within the same stage of the same half of the U is counted as sound."""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import plain_unet  # noqa: E402
from lab import show  # noqa: E402

from nnunetv2_stitch.graph import layer_nodes, match_layers, trace  # noqa: E402
from nnunetv2_stitch.stitching.description import build_parent  # noqa: E402


def stage(path: str) -> str | None:
    found = re.match(r"(encoder|decoder)\.(?:stages|transpconvs)\.(\d+)", path)
    return None if found is None else f"{found[1]} {found[2]}"


def along_shortest(traced, nodes: list) -> list:
    """With the done share of the shortest path through each node as its progress."""
    before, after = {}, {}
    for node in traced.graph.nodes:
        before[node] = 1 + min((before[n] for n in node.all_input_nodes), default=-1)
    for node in reversed(traced.graph.nodes):
        after[node] = 1 + min((after[n] for n in node.users), default=-1)
    return [replace(layer, progress=before[n] / max(1, before[n] + after[n]))
            for layer, n in zip(nodes, traced.graph.nodes)]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    rows = []
    for path in ("longest", "shortest"):
        specs = [plain_unet(), plain_unet()]
        specs[1]["arch_kwargs"].update(n_conv_per_stage=[3] * 6, n_conv_per_stage_decoder=[3] * 5)
        graphs = [trace(build_parent(spec, 1, 3)) for spec in specs]
        nodes = [layer_nodes(graph, 1) for graph in graphs]
        if path == "shortest":
            nodes = [along_shortest(graph, layers) for graph, layers in zip(graphs, nodes)]
        matches = match_layers(*nodes)
        sound = sum(stage(m.host_path) == stage(m.partner_path) for m in matches)
        distinct = len({round(n.progress, 6) for n in nodes[0]}) / len(nodes[0])
        rows.append({"": f"{path} path", "nodes": f"{len(nodes[0])} and {len(nodes[1])}", "matches": len(matches),
                     "within one stage": sound, "distinct progress": distinct})
    show(rows)


if __name__ == "__main__":
    main()
