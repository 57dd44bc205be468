"""A parent network as a graph: tracing, features by name, matching two graphs."""

from nnunetv2_stitch.graph.features import features
from nnunetv2_stitch.graph.matching import Match, match_layers, match_star, order_preserving_matching
from nnunetv2_stitch.graph.nodes import LayerNode, layer_nodes
from nnunetv2_stitch.graph.tracing import trace

__all__ = ["LayerNode", "Match", "features", "layer_nodes", "match_layers", "match_star", "order_preserving_matching",
           "trace"]
