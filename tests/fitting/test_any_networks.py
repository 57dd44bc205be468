"""An ensemble of any two networks is right at every position: untouched without stitches, the same before and after it
is pruned, and on itself a network loses nothing. What cannot be right is refused in one line."""

import pytest
import torch
from any_networks import Classifier, Overwriting, Segmenter, Unpadded, made, vectors
from networks import build, matches_of, spec
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fitting.any_networks import StitchedEnsemble
from nnunetv2_stitch.selection.deploy import deploy_fold
from nnunetv2_stitch.stitching.setting import Setting


def image(size: int = 20, count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


def numbers(count: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 7, generator=torch.Generator().manual_seed(seed))


PAIRS = {
    "classifiers of one kind": (lambda: (made(Classifier, 8), made(Classifier, 6, seed=1)), image),
    "padded and unpadded": (lambda: (made(Classifier), made(Unpadded, seed=1)), image),
    "an input of odd size": (lambda: (made(Classifier), made(Unpadded, seed=1)), lambda: image(23)),
    "segmenters": (lambda: (made(Segmenter), made(Segmenter, 4, False, seed=1)), image),
    "ending in softmax": (lambda: [made(Segmenter, w, ends=lambda: nn.Softmax(1), seed=w) for w in (4, 6)], image),
    "overwriting": (lambda: (made(Overwriting), made(Segmenter, seed=1)), image),
    "nnU-Net's": (lambda: (build(spec()), build(spec("ResidualEncoderUNet"), seed=1)), image),
    "vectors": (lambda: (made(vectors, 6), made(vectors, 9, seed=1)), numbers),
}
pairs = pytest.mark.parametrize(("networks", "x"), PAIRS.values(), ids=PAIRS)


def joined(networks, **more) -> StitchedEnsemble:
    host, partner = networks()
    return StitchedEnsemble.from_networks(host, partner, 7 if isinstance(host, nn.Sequential) else 1, **more)


@pairs
@torch.no_grad()
def test_alone_the_parents_answer_to_the_last_bit_and_together_they_are_averaged(networks, x):
    host, partner = networks()
    ensemble, x = joined(networks), x()
    ensemble.fit([x])
    for party, network in (("host", host), ("partner", partner)):
        ensemble.set_position(party)
        assert torch.equal(ensemble(x), network(x))
    answers = [n(x.clone()).double() for n in (host, partner)]
    ensemble.set_position("ensemble")
    probabilities = isinstance(getattr(host, "ends", None), nn.Softmax)
    mean = sum(answers) / 2 if probabilities else sum(a.softmax(1) for a in answers).div(2).log()
    torch.testing.assert_close(ensemble(x).double(), mean, rtol=1e-5, atol=1e-5)


@pairs
def test_fitted_stitches_explain_their_targets_and_no_position_is_left_out(networks, x):
    ensemble = joined(networks)
    r2 = ensemble.fit([x(), [x(seed=1), torch.zeros(3)]] if x is image else [x()])
    assert list(r2) == ensemble.positions and len(r2) > 2
    assert all(-1e-6 < value <= 1 for pair in r2.values() for value in pair)


@pairs
@torch.no_grad()
def test_pruned_to_a_position_it_answers_as_before(networks, x):
    ensemble, x = joined(networks), x()
    ensemble.fit([x])
    some = ensemble.positions[::max(1, len(ensemble.positions) // 6)]
    for position in (*some, "all", "ensemble", "host", "partner"):
        ensemble.set_position(position)
        kept = x.clone()
        torch.testing.assert_close(ensemble.deployed(ensemble.setting)(x), ensemble(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(x, kept)


@pytest.mark.parametrize(("kind", "x"), [(Classifier, image), (Unpadded, image), (Segmenter, image),
                                         (vectors, numbers)])
@torch.no_grad()
def test_stitched_to_itself_a_network_answers_as_alone_at_every_position(kind, x):
    network = made(kind, 6).double()
    ensemble, x = StitchedEnsemble.from_networks(network, network, 1 if x is image else 7), x().double()
    x = x if x.ndim == 2 else torch.cat([image(count=24, seed=s).double() for s in range(4)])
    r2 = ensemble.fit([x])
    assert min(min(pair) for pair in r2.values()) > 0.999
    wanted = network(x).softmax(1)
    for position in (*ensemble.positions, "all"):
        ensemble.set_position(position)
        torch.testing.assert_close(ensemble(x).softmax(1), wanted, rtol=0, atol=1e-3)


@pairs
def test_double_batched_loss_teaches_every_stitch_and_leaves_the_parents_and_the_position(networks, x):
    ensemble, x = joined(networks), x()
    ensemble.fit([x])
    ensemble.set_position(1)
    before = {k: v.clone() for k, v in ensemble.state_dict().items() if not k.startswith("switches.")}
    setting = ensemble.setting
    optimizer = torch.optim.Adam(ensemble.stitch_parameters(), 1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = ensemble.double_batched_loss(x)
        loss.backward()
        assert loss.ndim == 0 and all(p.grad is not None for p in ensemble.stitch_parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and ensemble.setting == setting
    assert all(torch.equal(ensemble.state_dict()[k], v) for k, v in before.items())


def test_the_given_networks_are_left_alone_and_weights_travel():
    host, partner = made(Classifier).train(), made(Unpadded, seed=1)
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in (host, partner)]
    ensemble = StitchedEnsemble.from_networks(host, partner, 1)
    ensemble.fit([image()])
    assert host.training and all(m.training for m in host.modules()) and all(p.requires_grad for p in host.parameters())
    assert host.blocks[0].relu.inplace
    for network, weights in zip((host, partner), before):
        assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())
    ensemble.set_position(2)
    small = ensemble.deployed(ensemble.setting)
    other = StitchedEnsemble.from_networks(made(Classifier, seed=5), made(Unpadded, seed=6), 1)
    with torch.no_grad():
        other.load_state_dict(ensemble.state_dict())
        assert torch.equal(other(image()), ensemble(image()))
        ensemble.set_position(4)
        small.load_state_dict(ensemble.state_dict())
        torch.testing.assert_close(small(image()), ensemble(image()), rtol=1e-5, atol=1e-5)


def test_only_chosen_positions_carry_stitches():
    assert joined(PAIRS["segmenters"][0], positions=[3, 1]).positions == [1, 3]
    blocks = joined(PAIRS["segmenters"][0], positions="blocks")
    assert [m["host_path"] for m in blocks.matches] == ["first.2", "down.2", "last.1"]


def test_nnunets_networks_are_joined_as_from_plans():
    pair = spec(), spec("ResidualEncoderUNet")
    host, partner = map(build, pair)
    host.decoder.deep_supervision = partner.decoder.deep_supervision = True
    ensemble = StitchedEnsemble.from_networks(host, partner, 1)
    assert [{**m, "resized": None} for m in ensemble.matches] == [{**m, "resized": None} for m in matches_of(*pair)]
    ensemble.fit([image()])
    assert host.decoder.deep_supervision


class Deciding(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x


class Asking(nn.Module):
    """Does to tensors what torch.fx, which gives it something else, does not see."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x * 2 if isinstance(x, torch.Tensor) and type(x) is torch.Tensor else x)


def from_networks(host, partner, channels=1, **more):
    return StitchedEnsemble.from_networks(host, partner, channels, **more)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: from_networks(nn.Sequential(nn.Conv2d(1, 2, 1), Deciding()), made(Segmenter)),
     r"cannot be traced: torch.fx stops in its module 1 \(.*Deciding"),
    (lambda: from_networks(made(Asking), made(Segmenter)).fit([image()]), "the host, Asking, answers otherwise"),
    (lambda: from_networks(made(Classifier), nn.Sequential(nn.Conv3d(1, 4, 1))), "works in 2d and the partner in 3d"),
    (lambda: from_networks(made(Classifier, classes=3), made(Classifier)), "host has 3 outputs and the partner 4"),
    (lambda: from_networks(made(Classifier, classes=3), made(Segmenter)), "a map and the other with a vector"),
    (lambda: from_networks(made(Segmenter, ends=lambda: nn.Softmax(1)), made(Segmenter)), "one of the networks ends"),
    (lambda: from_networks(nn.Sequential(nn.ChannelShuffle(1), nn.Conv2d(1, 3, 1)), made(Segmenter)),
     r"nothing can be stitched; the first layer of the host that is not known to stitching is 0 \(ChannelShuffle\)"),
    (lambda: from_networks(made(Segmenter), made(Segmenter), positions=[2, 99]), "there are positions 0 to"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).fit([]), "there was no batch"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).fit([{"image": image()}]), r"fit\(batch\['image'\] for"),
    (lambda: from_networks(made(Segmenter), None), "the partner is NoneType; give a torch.nn.Module"),
    (lambda: from_networks(made(Segmenter), made(Segmenter), 3), "of the host takes 1 channels, and input_channels is"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).fit(image()), "this is one tensor; give a list of"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).fit([image().numpy()]), "this is ndarray; convert it"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).fit([image() * float("nan")]), "holds NaN or infinite"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).fit([image()[:0]]), r"this one has shape \(0, 1, 20, 20"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).fit([image().byte()]), "and type torch.uint8"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).set_position(99), "there is no position 99"),
    (lambda: from_networks(made(Segmenter), made(Segmenter)).set_position("middle"), "there is no position 'middle'"),
    (lambda: deploy_fold(from_networks(made(Segmenter), made(Segmenter)), "fold_0", Setting()),
     "came without nnU-Net plans, so what is stitched of them cannot become an nnU-Net model folder"),
])
def test_what_cannot_be_right_is_refused_in_one_line(call, message):
    with pytest.raises(StitchError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
