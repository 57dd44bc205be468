"""Kind: the partner's network answers in the host's terms what it answered in its own, whatever the order of names."""

import pytest
import torch
from model_folders import make_model, results  # noqa: F401 -- fixtures
from networks import KINDS, spec

from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.parties.checkpoint import load_weights
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.training.adapt_terms import channel_sources, in_terms, input_tensors, output_sources
from nnunetv2_stitch.training.line import ALPHAS, between
from nnunetv2_stitch.training.member import read_member


def network(description: dict, channels: int, outputs: int, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    built = build_parent(description, channels, outputs).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


@pytest.mark.parametrize("dim", (2, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_channels_and_labels_in_another_order_give_the_same_answer(kind, dim):
    description = spec(kind, dim)
    partner, host = network(description, 2, 3, 0), network(description, 3, 4, 1)
    initial = {k: v.clone() for k, v in host.state_dict().items()}
    channels, outputs = [1, None, 0], [[0], [2], [], [1]]  # the host has one channel and one label more
    inputs = input_tensors(description, 3, 4)
    load_weights(host, in_terms(partner.state_dict(), initial, inputs, channels, outputs), "here")
    x = torch.randn(2, 3, *[16] * dim)
    with torch.no_grad():
        theirs, ours = partner(x[:, [2, 0]]), host(x)
    for i, sources in enumerate(outputs):
        if sources:  # other order of channels, other order of sums
            torch.testing.assert_close(ours[:, i], theirs[:, sources[0]], rtol=1e-4, atol=1e-5 * theirs.abs().max())
    heads = [k for k in initial if ".seg_layers." in k]
    assert len(heads) >= 4  # those of deep supervision, too
    assert all((host.state_dict()[k][2] == initial[k][2]).all() for k in heads)


def test_where_all_names_are_the_same_every_tensor_is_the_partners():
    partner, host = (network(spec(), 1, 3, seed) for seed in (0, 1))
    mapped = in_terms(partner.state_dict(), host.state_dict(), input_tensors(spec(), 1, 3), [0], [[0], [1], [2]])
    assert all(torch.equal(v, partner.state_dict()[k]) for k, v in mapped.items())


def test_the_line_has_the_ends_themselves_and_shares_the_memory_of_names_for_one_tensor():
    one, other = (network(spec(), 1, 3, seed).state_dict() for seed in (0, 1))
    for alpha, end in ((0, one), (1, other)):
        assert all(torch.equal(v, end[k]) for k, v in between(one, other, alpha).items())
    for alpha in ALPHAS:
        for name, value in between(one, other, alpha).items():
            exact = one[name].double() + alpha * (other[name].double() - one[name].double())
            torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-7)
    half = between(one, other, 0.5)
    assert len({v.data_ptr() for v in half.values()}) == len({v.data_ptr() for v in other.values()}) < len(half)


@pytest.fixture
def parties(make_model, results):  # noqa: F811
    """`parties(host labels, partner labels)` with, as further fields of dataset.json, what they are."""
    made = []

    def make(host: dict, partner: dict):
        for fields in (host, partner):
            folder = make_model(f"Dataset{911 + len(made)}_X")
            path = str(folder / "dataset.json")
            write_json(path, {**read_json(path), **fields})
            made.append(read_model_folder(str(folder)))
        return made[-2:]
    return make


def labels(*names: str) -> dict:
    return {"labels": {name: i for i, name in enumerate(("background", *names))}}


REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


def test_outputs_by_name(parties):
    host, partner = parties(labels("b", "new", "A-1"), labels("a 1", "B", "theirs"))
    assert output_sources(host, partner, NO_MAPS) == [[0], [2], [], [1]]
    assert output_sources(host, partner, NameMaps({"theirs": "new", "B": None}, {})) == [[0], [], [3], [1]]
    turned = {"labels": {"background": 0, "core": 2, "whole": [1, 2]}, "regions_class_order": [2, 1]}
    assert output_sources(*parties(REGIONS, turned), NO_MAPS) == [[1], [0]]


@pytest.mark.parametrize("host, partner, what", [
    (REGIONS, labels("whole", "core"), "trained on regions and .* on labels"),
    (labels("a"), labels("b"), "no label of .* has the name of one of the host's .* give -label_map"),
])
def test_outputs_that_cannot_be_mapped_are_refused_in_one_line(host, partner, what, parties):
    with pytest.raises(StitchError, match=what) as told:
        output_sources(*parties(host, partner), NO_MAPS)
    assert "\n" not in str(told.value)


def test_channels_by_name(parties):
    _, partner = parties({}, {"channel_names": {"0": "T1", "1": "FLAIR"}})
    assert channel_sources(["flair", "T2", "t1"], partner, NO_MAPS) == [1, None, 0]
    with pytest.raises(StitchError, match="needs channel FLAIR, which the host lacks"):
        channel_sources(["T1", "T2"], partner, NO_MAPS)
    with pytest.raises(StitchError, match="stands for several"):
        channel_sources(["T1", "T2"], partner, NameMaps({}, {"FLAIR": "T1"}))


def test_what_is_made_of_an_adapted_partner_is_under_the_partners_licence(make_model):  # noqa: F811
    """Kind: a licence that is lost on the way, because a model is made of another party's in several steps."""
    folder = make_model("Dataset911_A")
    write_json(str(folder / "adapt.json"), {"partner": {"dataset": "Dataset912_B", "model": "m", "licence": "CC BY"}})
    assert read_member(read_model_folder(str(folder)), 0, "A").to_json()["licence"] == "CC BY"
