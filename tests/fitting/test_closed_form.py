import gc

import numpy as np
import pytest
import torch
from close import assert_same
from networks import build, ensemble, image, spec

from nnunetv2_stitch.fitting import closed_form
from nnunetv2_stitch.fitting.closed_form import DirectMatching, Moments
from nnunetv2_stitch.graph import features


def test_moments_give_the_least_squares_solution_in_both_directions():
    torch.manual_seed(0)
    a = 50 + torch.randn(4, 3, 8, 8)
    b = torch.einsum("oc,bcxy->boxy", torch.randn(5, 3), a) + 0.3 * torch.randn(4, 5, 8, 8) - 7
    moments = Moments(3, 5)
    for chunk_a, chunk_b in zip(a.split(1), b.split(1)):
        moments.update(chunk_a, chunk_b)
    to_a, to_b = moments.solve(ridge=0)
    flat_a, flat_b = (m.transpose(0, 1).flatten(1).double().numpy() for m in (a, b))
    for solution, source, target in ((to_a, flat_b, flat_a), (to_b, flat_a, flat_b)):
        design = np.vstack([source, np.ones(source.shape[1])]).T
        wanted, *_ = np.linalg.lstsq(design, target.T, rcond=None)
        assert_same(solution.weight, wanted[:-1].T)
        np.testing.assert_allclose(solution.bias.numpy(), wanted[-1], rtol=1e-3, atol=1e-2)
        residual = target - (design @ wanted).T
        assert solution.r2 == pytest.approx(1 - residual.var(1).sum() / target.var(1).sum(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mixed_precision_loses_nothing_that_the_maps_hold(dtype):
    """Large means, as in front of a norm; in half precision the sums of squares overflow and the variance is lost."""
    torch.manual_seed(0)
    a = torch.randn(2, 6, 70, 90)
    b = (torch.einsum("oc,bcxy->boxy", torch.randn(8, 6), a) + 0.1 * torch.randn(2, 8, 70, 90) - 20).to(dtype)
    a = (30 + a).to(dtype)
    moments = Moments(6, 8)
    with torch.autocast("cpu", torch.bfloat16):  # as training runs it on CUDA
        moments.update(a, b)
        moments.update(a.flip(0), b.flip(0))
    covariance = torch.cat([m.double().transpose(0, 1).flatten(1) for m in (a, b)]).cov(correction=0)
    aa, ba, bb = covariance[:6, :6], covariance[6:, :6], covariance[6:, 6:]
    wanted = torch.linalg.solve(aa, ba.T).T
    r2 = float((wanted @ aa @ wanted.T).trace() / bb.trace())
    _, to_b = moments.solve(ridge=0)
    assert_same(to_b.weight, wanted)
    assert to_b.r2 == pytest.approx(r2, abs=1e-5)


@pytest.mark.parametrize("images, pixels, most", [(3, 7, 8), (3, 7, 16), (5, 7, 24), (2, 30, 8), (2, 30, 16),
                                                  (1, 5, 64)])
def test_products_in_pieces_are_the_whole_product(images, pixels, most, monkeypatch):
    monkeypatch.setattr(closed_form, "PIECE", 8)
    maps = torch.randn(2, images, pixels), torch.randn(3, images, pixels)
    pieces = [v.clone() for v in closed_form._centred(maps, (torch.zeros(2, 1), torch.ones(3, 1)), most)]
    flat = torch.cat([maps[0], maps[1] - 1]).flatten(1)
    assert max(v.shape[2] for v in pieces) <= 8 and max(v.shape[0] * v.shape[2] for v in pieces) <= most
    assert_same(sum((v @ v.mT).sum(0) for v in pieces), flat @ flat.T)
    assert_same(sum(v.sum((0, 2)) for v in pieces), flat.sum(1))


def test_dead_channels_stay_finite():
    moments = Moments(2, 2)
    moments.update(torch.randn(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
    for solution in moments.solve():
        assert torch.isfinite(solution.weight).all() and torch.isfinite(solution.bias).all()


@pytest.mark.parametrize("partner", [{}, {"kind": "ResidualEncoderUNet", "width": 4}])
@torch.no_grad()
def test_direct_matching_fits_every_stitch_to_the_untouched_features(partner):
    specs = spec(), spec(**partner)
    parents = [build(s, seed) for seed, s in enumerate(specs)]
    net = ensemble(*specs, networks=parents)
    x = image(batch=4)
    matching = DirectMatching(net)
    matching.update(x)
    scores = matching.solve()
    for position in net.positions[::5]:
        match = net.matches[position]
        if any(p.rsplit(".", 1)[-1].startswith(("cat", "add")) for p in (match["host_path"], match["partner_path"])):
            continue
        a = features(parents[0], [match["host_path"]], x)[match["host_path"]]
        b = features(parents[1], [match["partner_path"]], x)[match["partner_path"]]
        fitted = net.switch(position, "host").stitch(b)
        error = (fitted - a).square().mean() / a.transpose(0, 1).flatten(1).var(1).mean()
        assert float(1 - error) == pytest.approx(scores[position][0], abs=0.02)
        weight = net.switch(position, "host").stitch.weight
        weight.add_(0.01 * torch.randn_like(weight))
        assert (net.switch(position, "host").stitch(b) - a).square().sum() > (fitted - a).square().sum()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_batches():
    """What is kept is counted: bytes of all tensors that are alive."""
    specs = spec(), spec(width=4)
    matching = DirectMatching(ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)]))

    def alive() -> int:
        gc.collect()
        return sum(t.nbytes for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter))

    after = []
    for seed in range(4):
        matching.update(image(seed=seed))
        after.append(alive())
    assert after[0] == after[1] == after[3]
