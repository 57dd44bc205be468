"""Signatures: their density is the normal one, and what no network could have measured is refused."""

import copy
import json

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.gating.signature import LEVELS, Signature, read_signature

F = 6


@pytest.fixture(scope="module")
def features():
    random = np.random.default_rng(0)
    mixed = random.normal(size=(F, F))
    return random.normal(size=(400, F)) @ mixed + 3, random.normal(size=(300, F)) @ mixed + 3


def test_the_density_is_the_normal_one_and_its_quantiles_those_of_the_validation_cases(features):
    found = Signature.of(*features)
    wanted = multivariate_normal(found.mean, found.covariance).logpdf(features[1])
    np.testing.assert_allclose(found.log_density(features[1]), wanted)
    np.testing.assert_allclose(found.quantiles, np.quantile(wanted, LEVELS))
    np.testing.assert_allclose(found.mean, features[0].mean(0))
    scale = np.sqrt(np.diag(found.covariance))
    np.testing.assert_allclose(found.covariance, np.cov(features[0].T, ddof=0), atol=0.1 * scale.max()**2)


def test_it_does_not_depend_on_the_scale_of_a_feature(features):
    scale = np.array([1e-2, 1, 10, 1, 1e3, 1])
    one, two = Signature.of(*features), Signature.of(*(f * scale for f in features))
    np.testing.assert_allclose(two.quantiles, np.array(one.quantiles) - np.log(scale).sum(), rtol=1e-6)


@pytest.mark.parametrize("training", [np.ones((5, F)), np.arange(2 * F).reshape(2, F), np.eye(F)[:3]])
def test_features_that_do_not_vary_or_are_few_give_finite_densities(training):
    found = Signature.of(training, training[:1])
    assert np.isfinite(found.log_density(np.full((1, F), 1e3))).all() and np.isfinite(found.quantiles).all()
    Signature.from_json(json.loads(json.dumps(found.to_json())), F, "x")


ONE, TWO = np.ones((1, F)), np.ones((2, F))


@pytest.mark.parametrize("training, validation", [(ONE, ONE), (TWO, TWO[:0]),
                                                  (np.full((3, F), np.nan), ONE)])
def test_nothing_is_measured_of_too_few_tiles_or_of_no_numbers(training, validation):
    with pytest.raises(StitchError, match="signature"):
        Signature.of(training, validation)


def test_it_comes_back_from_its_file(features, tmp_path):
    found = Signature.of(*features)
    assert read_signature(str(tmp_path), F) is None
    (tmp_path / "signature.json").write_text(json.dumps(found.to_json()))
    back = read_signature(str(tmp_path), F)
    assert back.to_json() == found.to_json()


def test_tiles_of_another_size_are_recognised_by_the_coarse_signature():
    """What cutting an image otherwise changes is no evidence; a real difference is."""
    random = np.random.default_rng(3)
    narrow = np.concatenate([0.003 * random.normal(size=(300, 3)), 0.05 * random.normal(size=(300, 3))], 1)
    found = Signature.of(narrow[:200], narrow[200:])
    cut = narrow[200:] + [0.03, -0.02, 0.03, 0.02, 0.02, 0.02]
    other = narrow[200:] + [0, 0, 0, 0.6, 0.6, -0.6]
    for signature, known in ((found, 0), (found.coarsened(), 100)):
        assert (signature.log_density(cut) > signature.quantile(0.01)).sum() == pytest.approx(known, abs=12)
        assert not (signature.log_density(other) > signature.quantile(0.01)).any()
    assert np.all(found.coarsened().coarsened().covariance == found.coarsened().covariance)


HOSTILE = {
    "NaN": lambda v: v["mean"].__setitem__(0, float("nan")),
    "infinity": lambda v: v["covariance"][0].__setitem__(0, float("inf")),
    "huge": lambda v: v["quantiles"].__setitem__(0, -1e300),
    "huge whole": lambda v: v["mean"].__setitem__(0, 10**400),
    "text": lambda v: v["mean"].__setitem__(0, "1"),
    "wrong size": lambda v: v["mean"].append(0.0),
    "ragged": lambda v: v["covariance"][2].pop(),
    "not positive definite": lambda v: v["covariance"][1].__setitem__(1, -1.0),
    "singular": lambda v: v.update(covariance=np.ones((F, F)).tolist()),
    "tiny": lambda v: v.update(covariance=(1e-20 * np.eye(F)).tolist()),
    "not symmetric": lambda v: v["covariance"][0].__setitem__(1, 5.0),
    "coarse of another size": lambda v: v.update(coarse=[0.0]),
    "likelier than can be, coarsely": lambda v: v.update(coarse=[1e6] * len(v["quantiles"])),
    "likelier than can be": lambda v: v["quantiles"].__setitem__(-1, 1e6),
    "decreasing": lambda v: v.update(quantiles=v["quantiles"][::-1]),
    "no levels": lambda v: v.pop("levels"),
    "no count": lambda v: v.update(count=True),
    "other stages": lambda v: v.update(stages=7),
    "other format": lambda v: v.update(format="x"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_signature_has_is_refused_in_one_line(features, kind):
    value = copy.deepcopy(Signature.of(*features).to_json())
    HOSTILE[kind](value)
    with pytest.raises(StitchError, match="^here .*ask the sender") as refused:
        Signature.from_json(value, F, "here")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [None, [], "x", {}, {"format": "nnunetv2-stitch signature"}])
def test_other_json_is_refused(value):
    with pytest.raises(StitchError, match="ask the sender"):
        Signature.from_json(value, F, "here")
