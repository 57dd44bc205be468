import itertools
import math
import sys
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, build, spec
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph import layer_nodes, match_layers, order_preserving_matching, trace
from nnunetv2_stitch.graph.matching import score_matrix


def nodes_of(**arguments):
    return layer_nodes(trace(build(spec(**arguments))), 1)


def test_known_pair_has_79_matches():
    a, b = nodes_of(stages=6, convs=2), nodes_of(stages=6, convs=3)
    assert (len(a), len(b)) == (79, 112)
    assert len(order_preserving_matching(score_matrix(a, b))) == 79


def test_equal_networks_match_every_layer_to_itself():
    for kind in KINDS:
        nodes = nodes_of(kind=kind, stages=4)
        matches = match_layers(nodes, nodes)
        assert [m.host for m in matches] == [m.partner for m in matches] == [n.name for n in nodes if n.stitchable]


def test_matches_join_only_equal_strides_and_leave_input_and_head_alone():
    a, b = nodes_of(stages=3), nodes_of(kind="ResidualEncoderUNet", stages=5)
    stride_a, stride_b = ({n.name: n.stride for n in side} for side in (a, b))
    matches = match_layers(a, b)
    assert matches
    assert all(stride_a[m.host] == stride_b[m.partner] for m in matches)
    special = {n.name for n in (*a, *b) if not n.stitchable}
    assert not special & {name for m in matches for name in (m.host, m.partner)}


def test_physical_scale_counts_where_spacings_differ():
    nodes = nodes_of(stages=3)
    stride = {n.name: n.stride for n in nodes}
    finer = match_layers(nodes, nodes, ratio=(2.0, 2.0))  # the second network's voxels are half as wide
    assert finer and all(stride[m.partner] == tuple(2 * s for s in stride[m.host]) for m in finer)
    near = match_layers(nodes, nodes, ratio=(1.3, 0.8))
    assert near and all(stride[m.partner] == stride[m.host] == m.host_stride for m in near)


def test_axes_may_be_in_another_order():
    nodes = nodes_of(stages=3)
    wide = [replace(n, stride=(n.stride[0], 2 * n.stride[1])) for n in nodes]
    tall = [replace(n, stride=n.stride[::-1]) for n in wide]
    same = match_layers(wide, tall, ratio=(1.0, 1.0), axes=(1, 0))
    assert len(same) == len(match_layers(nodes, nodes)) and not match_layers(wide, tall)


def test_blocks_are_the_outputs_of_activations():
    nodes = nodes_of(stages=4)
    matches = match_layers(nodes, nodes, "blocks")
    assert len(matches) == 4 * 2 + 3 * 2
    assert all(m.host_path.endswith("nonlin") for m in matches)


def test_unknown_positions_are_refused():
    with pytest.raises(StitchError, match="positions"):
        match_layers([], [], "some")


def brute_force(scores):
    n, m = scores.shape
    best = 0.0
    for k in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), k):
            for columns in itertools.combinations(range(m), k):
                best = max(best, scores[list(rows), list(columns)].sum())
    return best


@st.composite
def score_matrices(draw):
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    values = st.one_of(st.just(-np.inf), st.floats(0.5, 1))
    return np.array([[draw(values) for _ in range(m)] for _ in range(n)])


@settings(max_examples=150, deadline=None)
@given(score_matrices())
def test_matching_is_optimal_and_order_preserving(scores):
    pairs = order_preserving_matching(scores)
    assert all(a < c and b < d for (a, b), (c, d) in zip(pairs, pairs[1:]))
    total = sum(scores[p] for p in pairs)
    assert np.isfinite(total)
    assert total == pytest.approx(brute_force(scores))


@st.composite
def small_dags(draw, hamiltonian=False):
    """A DAG on 0..n-1 whose numbering is a topological order; `hamiltonian` adds the path through all nodes."""
    n = draw(st.integers(2, 5))
    edges = {(i, j) for i in range(n) for j in range(i + 1, n) if draw(st.booleans())}
    return n, edges | ({(i, i + 1) for i in range(n - 1)} if hamiltonian else set())


def joined_is_acyclic(dag_a, dag_b, pairs):
    """Whether both graphs stay acyclic together when each pair is one node."""
    graph = nx.DiGraph()
    name = {("b", j): ("a", i) for i, j in pairs}
    for side, (n, edges) in (("a", dag_a), ("b", dag_b)):
        graph.add_nodes_from(name.get((side, i), (side, i)) for i in range(n))
        graph.add_edges_from((name.get((side, i), (side, i)), name.get((side, j), (side, j))) for i, j in edges)
    return nx.is_directed_acyclic_graph(graph)


@settings(max_examples=150, deadline=None)
@given(small_dags(), small_dags(), st.randoms(use_true_random=False))
def test_matching_is_acyclic_on_any_dags(dag_a, dag_b, rng):
    scores = np.array([[rng.choice([-np.inf, rng.uniform(0.5, 1)]) for _ in range(dag_b[0])] for _ in range(dag_a[0])])
    assert joined_is_acyclic(dag_a, dag_b, order_preserving_matching(scores))


@settings(max_examples=60, deadline=None)
@given(small_dags(hamiltonian=True), small_dags(hamiltonian=True), st.randoms(use_true_random=False))
def test_no_acyclic_matching_is_better_where_a_path_visits_every_node(dag_a, dag_b, rng):
    n, m = dag_a[0], dag_b[0]
    scores = np.array([[rng.uniform(0.5, 1) for _ in range(m)] for _ in range(n)])
    best = 0.0
    for k in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), k):
            for columns in itertools.permutations(range(m), k):
                pairs = list(zip(rows, columns))
                if joined_is_acyclic(dag_a, dag_b, pairs):
                    best = max(best, sum(scores[p] for p in pairs))
    found = sum(scores[p] for p in order_preserving_matching(scores))
    assert found == pytest.approx(best)


def test_two_resenc_xl_networks_are_matched_without_a_call_per_pair_of_layers():
    with torch.device("meta"):
        network = ResidualEncoderUNet(
            1, 6, (32, 64, 128, 256, 320, 320), nn.Conv3d, 3, [1] + [2] * 5, (1, 3, 4, 6, 6, 6), 3, (1,) * 5, True,
            nn.InstanceNorm3d, {"affine": True}, None, None, nn.LeakyReLU, {"inplace": True})
    traced = trace(network)
    nodes = [layer_nodes(traced, 1) for _ in range(2)]
    calls = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, what: calls.append(event))
    try:
        found = match_layers(*nodes)
    finally:
        sys.setprofile(before)
    assert len(found) == 223 and len(calls) < math.prod(map(len, nodes))
