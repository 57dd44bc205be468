"""Real pairs of networks that are not nnU-Nets, each trained on its own half of scikit-learn's digits: matched, fitted,
double-batched, and measured at every position. Run with `-s` to see the curves."""

import re
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import nnunetv2_stitch as ns

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "any-two-networks.md"


def digits(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(1797, 1, size, size)` from 0 to 1 and what they show."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return F.interpolate(x, size=(size, size), mode="bilinear"), torch.tensor(labels)


def trained(network: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float = 2e-3) -> nn.Module:
    optimizer = torch.optim.Adam(network.train().parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


def train_stitches(ensemble, x: torch.Tensor, steps: int = 12) -> list[float]:
    optimizer = torch.optim.Adam(ensemble.stitch_parameters(), 1e-4)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ensemble.double_batched_loss(x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def curve(ensemble, score) -> dict:
    """A score of the answer at every position, and without stitches."""
    found = {}
    for position in (*ensemble.positions, "all", "ensemble", "host", "partner"):
        ensemble.set_position(position)
        found[position] = float(score(ensemble))
        name = ensemble.position_name(position) if isinstance(position, int) else ""
        print(f"{position!s:>9}  {found[position]:.3f}  {name}")
    return found


@torch.no_grad()
def everywhere_averaged(ensemble, x: torch.Tensor) -> torch.Tensor:
    """The defined end of the curve, straight from the definition: at every match both maps are replaced by the mean of
    the own and the translated other, and the two answers' probabilities are averaged."""
    values = {}
    for node in ensemble.joined.graph.nodes:
        args = torch.fx.map_arg(node.args, values.get)
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "output":
            return args[0]
        elif node.op == "call_function":
            values[node] = node.target(*args, **torch.fx.map_arg(node.kwargs, values.get))
        elif node.op == "call_method":
            values[node] = getattr(args[0], node.target)(*args[1:])
        elif node.target == "heads":
            values[node] = sum(a.softmax(1) for a in args).div(2).log()
        elif node.target.startswith("switches."):
            values[node] = (args[0] + ensemble.joined.get_submodule(node.target).stitch(args[1])) / 2
        else:
            values[node] = ensemble.joined.get_submodule(node.target)(*args)


@pytest.mark.slow
def test_a_pair_of_resnets_that_have_seen_different_digits():
    resnet = pytest.importorskip("torchvision.models.resnet")

    def small(layers):  # a stem for small images
        network = resnet.ResNet(resnet.BasicBlock, layers, num_classes=10)
        network.conv1, network.maxpool = nn.Conv2d(1, 64, 3, 2, 1, bias=False), nn.Identity()
        network.layer3, network.layer4 = network.layer3[:1], nn.Identity()
        network.fc = nn.Linear(256, 10)
        return network

    torch.manual_seed(0)
    x, y = digits(16)
    own, test = (y < 6).logical_and(torch.arange(len(y)) < 1200), torch.arange(len(y)) >= 1597
    other = (y > 3).logical_and(torch.arange(len(y)) < 1200)
    host = trained(small([1, 1, 1, 1]), x[own], y[own], 2)
    partner = trained(small([2, 1, 1, 1]), x[other], y[other], 2)
    ensemble = ns.StitchedEnsemble.from_networks(host, partner, input_channels=1)
    r2 = ensemble.fit(x[own].split(64))
    assert min(len(r2), len(ensemble.positions)) > 25 and max(map(min, r2.values())) > 0.5
    losses = train_stitches(ensemble, x[own][:32])
    assert losses[-1] < losses[0]
    found = curve(ensemble, lambda e: (e(x[test]).argmax(1) == y[test]).float().mean())
    for party, network in (("host", host), ("partner", partner)):
        ensemble.set_position(party)
        with torch.no_grad():
            assert torch.equal(ensemble(x[test]), network(x[test]))
    ensemble.set_position("all")
    with torch.no_grad():
        torch.testing.assert_close(ensemble(x[test]), everywhere_averaged(ensemble, x[test]), rtol=1e-3, atol=1e-3)
    assert 0.4 < found["host"] < 0.7  # of ten digits it has seen six
    assert found["ensemble"] > max(found["host"], found["partner"])
    assert max(found[k] for k in ensemble.positions) > max(found["host"], found["partner"])


@pytest.mark.slow
def test_a_pair_of_monai_unets_that_have_seen_different_images():
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    x, _ = digits(24)
    y = (x > 0.4).long()[:, 0]
    dim = 0.5 * x + 0.3 * torch.rand(x.shape)
    host = trained(nets.UNet(2, 1, 2, (8, 16, 32), (2, 2), num_res_units=1), x[:300], y[:300], 3)
    partner = trained(nets.UNet(2, 1, 2, (6, 12, 24), (2, 2), num_res_units=2), dim[300:600], y[300:600], 3)
    ensemble = ns.StitchedEnsemble.from_networks(host, partner, input_channels=1)
    r2 = ensemble.fit(x[:300].split(50))
    assert len(r2) > 15
    losses = train_stitches(ensemble, x[:50])
    assert losses[-1] < losses[0]
    seen, wanted = torch.cat([x[900:1000], dim[900:1000]]), torch.cat([y[900:1000], y[900:1000]])

    def dice(network):
        answer = network(seen).argmax(1)
        return 2 * (answer * wanted).sum() / (answer + wanted).sum()

    found = curve(ensemble, dice)
    for party, network in (("host", host), ("partner", partner)):
        ensemble.set_position(party)
        with torch.no_grad():
            assert torch.equal(ensemble(seen), network(seen))
    ensemble.set_position("all")
    with torch.no_grad():
        torch.testing.assert_close(ensemble(seen), everywhere_averaged(ensemble, seen), rtol=1e-3, atol=1e-3)
    assert max(found[k] for k in ensemble.positions) > found["host"] - 0.05


@pytest.mark.slow
def test_the_page_says_what_works(tmp_path, monkeypatch):
    pytest.importorskip("torchvision.models")
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["logits"].shape == (8, 10) and len(names["r2"]) > 40
    assert set(names["curve"]) == {*names["r2"], "all", "ensemble", "host", "partner"}
    assert (tmp_path / "stitched.pth").stat().st_size > 1e6
