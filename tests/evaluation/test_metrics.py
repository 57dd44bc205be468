"""Values worked out by hand, and a second library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_stitch.evaluation.metrics import (
    diagonal,
    drop_single_axes,
    in_plane_spacing,
    score_case,
    score_label,
    surface_distances,
)

FLAT = (999.0, 1.0, 1.0)


def square(top, left, size, shape=(1, 20, 20)):
    mask = np.zeros(shape, bool)
    mask[:, top:top + size, left:left + size] = True
    return mask


def test_shifted_square_by_hand():
    """Two 4 x 4 squares, one moved by 2: each has 12 rim pixels, 4 of them on the other's rim, 4 at 1, 4 at 2."""
    s = score_label(square(5, 5, 4), square(5, 7, 4), FLAT, tolerance=1.0)
    assert s.dice == 2 * 8 / 32
    assert s.surface_dice == pytest.approx(8 / 12)
    assert s.hd95 == pytest.approx(2.0)
    assert s.empty == ""
    assert score_label(square(5, 5, 4), square(5, 7, 4), FLAT, tolerance=0.0).surface_dice == pytest.approx(4 / 12)


def test_one_slice_images_have_contours_in_the_plane():
    """If the third axis counted, every voxel of a one-slice mask would be surface."""
    big, hole = square(2, 2, 15), square(2, 2, 15)
    hole[:, 8:10, 8:10] = False
    to_hole, to_big = surface_distances(big, hole, FLAT)
    assert len(to_big) == 4 * 14 + 8  # and around the hole, by faces
    assert score_label(big, hole, FLAT, 1.0).hd95 < 999
    with_spacing = score_label(square(5, 5, 4), square(5, 7, 4), (999.0, 1.0, 0.5), 1.0)
    assert with_spacing.hd95 == pytest.approx(1.0)
    assert with_spacing.surface_dice == 1.0


def test_where_a_label_is_empty():
    some, none = square(5, 5, 4), square(0, 0, 0)
    both = score_label(none, none, FLAT, 1.0)
    assert both.empty == "both" and np.isnan([both.dice, both.surface_dice, both.hd95]).all()
    for reference, prediction, empty in ((some, none, "prediction"), (none, some, "reference")):
        s = score_label(reference, prediction, FLAT, 1.0)
        assert (s.dice, s.surface_dice, s.empty) == (0.0, 0.0, empty)
        assert s.hd95 == pytest.approx(np.hypot(20, 20))


def test_a_mask_at_the_border_of_the_image_has_a_surface_there():
    whole = np.ones((1, 6, 6), bool)
    to_other, _ = surface_distances(whole, whole, FLAT)
    assert len(to_other) == 20
    assert score_label(whole, whole, FLAT, 0.0) == score_label(square(5, 5, 4), square(5, 5, 4), FLAT, 0.0)


def test_spacing_and_tolerance_are_in_mm():
    a, b = square(5, 5, 4), square(5, 7, 4)
    assert score_label(a, b, (999.0, 3.0, 3.0), 1.0).hd95 == pytest.approx(6.0)
    assert score_label(a, b, (999.0, 3.0, 3.0), 6.0).surface_dice == 1.0


def test_ignored_voxels_count_in_neither_mask():
    reference = np.where(square(5, 5, 4), 1, 0)
    prediction = np.where(square(5, 5, 6), 1, 0)
    reference[:, 9:, :] = reference[:, :, 9:] = 3
    assert score_case(reference, prediction, FLAT, {"a": (1,)}, 1.0, ignore=3)["a"].dice == 1.0
    assert score_case(reference, prediction, FLAT, {"a": (1,)}, 1.0)["a"].dice < 1.0


def test_regions_are_unions_of_their_values():
    reference, prediction = np.zeros((1, 8, 8), int), np.zeros((1, 8, 8), int)
    reference[:, 2:6, 2:6] = 1
    prediction[:, 2:6, 2:6] = 2
    found = score_case(reference, prediction, FLAT, {"whole": (1, 2), "core": (2,)}, 1.0)
    assert found["whole"].dice == 1.0 and found["core"].dice == 0.0 and found["core"].empty == "reference"


def test_measures_of_grids():
    assert diagonal((1, 3, 4), (999.0, 1.0, 1.0)) == 5.0
    assert in_plane_spacing((1, 30, 30), (999.0, 0.5, 0.7)) == 0.7
    assert in_plane_spacing((20, 30, 30), (5.0, 0.5, 0.7)) == 0.7
    assert drop_single_axes(np.ones((1, 1, 1), bool), (1, 2, 3))[0].shape == (1,)


def random_masks(seed, shape):
    rng = np.random.default_rng(seed)
    from scipy.ndimage import gaussian_filter
    fields = [gaussian_filter(rng.standard_normal(shape), 2) for _ in range(2)]
    fields[1] += fields[0]
    return [f > np.quantile(f, rng.uniform(0.5, 0.9)) for f in fields]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_measures_are_symmetric_and_within_bounds(seed):
    a, b = random_masks(seed, (6, 14, 15))
    one, two = (score_label(*masks, (3.0, 1.0, 0.8), 1.0) for masks in ((a, b), (b, a)))
    assert (one.dice, one.hd95) == (two.dice, two.hd95)
    assert one.surface_dice == pytest.approx(two.surface_dice)
    assert 0 <= one.dice <= 1 and 0 <= one.surface_dice <= 1 and 0 <= one.hd95 <= diagonal(a.shape, (3.0, 1.0, 0.8))


@pytest.mark.parametrize("shape", [(1, 40, 44), (12, 24, 20)])
def test_surface_measures_are_those_of_monai(shape):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    spacing = (4.0, 1.0, 0.75)
    for seed in range(6):
        a, b = random_masks(seed, shape)
        if seed == 5:
            a[..., :6, :] = True  # reaches the border
        kept = [axis for axis, n in enumerate(shape) if n > 1]
        tensors = [torch.from_numpy(m.reshape([1, 1, *(shape[k] for k in kept)])) for m in (b, a)]
        wanted = [spacing[k] for k in kept]
        mine = score_label(a, b, spacing, 1.3)
        hd95 = metrics.compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=wanted)
        surface = metrics.compute_surface_dice(*tensors, [1.3], include_background=True, spacing=wanted)
        assert mine.hd95 == pytest.approx(float(hd95), rel=1e-5)
        assert mine.surface_dice == pytest.approx(float(surface), rel=1e-6)
