"""Which slices are shown, and what they say."""

import numpy as np
import pytest

from nnunetv2_stitch.evaluation.case_look import CaseLook, mean_dice, picture, rows, slices_to_show
from nnunetv2_stitch.evaluation.labels import Labels

LABELS = Labels({"whole": (1, 2), "core": (2,)}, 9)


def volume(*slices, depth=12):
    """Zeros `(z, y, x)` with a square of label 1 in these slices."""
    found = np.zeros((depth, 8, 8), int)
    found[list(slices), 2:6, 2:6] = 1
    return found


def test_slices_are_those_that_differ_most_and_are_no_neighbours():
    one = volume(*range(12))
    other = one.copy()
    other[2, 2:5, 2:5] = other[3, 2, 2] = other[8, 3, 3] = 0
    assert slices_to_show([one, other], 0, 3) == [0, 2, 8]  # elsewhere all slices have as much foreground
    assert slices_to_show([one, other], 0, 2) == [2, 8]
    assert slices_to_show([one.transpose(1, 0, 2), other.transpose(1, 0, 2)], 1, 3) == [0, 2, 8]


@pytest.mark.parametrize(("segmentations", "wanted"), [
    ([volume(3, 4), volume(3, 4)], [3, 4]), ([volume(5)], [5]), ([volume(), volume()], [6]),
    ([volume(0, depth=1), volume(depth=1)], [0])])
def test_without_differences_slices_are_where_foreground_is(segmentations, wanted):
    assert slices_to_show(segmentations, 0, 3) == wanted


def test_rows_are_cut_across_the_thickest_slices_each_in_its_proportions():
    image = np.arange(12 * 8 * 8, dtype=float).reshape(12, 8, 8)
    look = CaseLook({"host": volume(4), "stitched": volume(4, 5)}, {"disagreement": volume(5) * 100},
                    {"spacing": (1.0, 5.0, 2.0)})
    found = rows(image, look, volume(4), LABELS)
    assert [r.title for r in found] == [f"y = {i}" for i in (2, 3, 4)] and found[0].aspect == 0.5
    assert [p.title for p in found[0].panels] == ["image", "host alone\nDice 1.000", "stitched\nDice 0.667",
                                                  "disagreement"]
    np.testing.assert_array_equal(found[2].panels[2].labels, volume(4, 5)[:, 4])
    np.testing.assert_array_equal(found[2].reference, volume(4)[:, 4])
    assert found[2].panels[3].heat.max() == 100 and found[2].panels[0].image.shape == (12, 8)


def test_a_share_is_its_mean_where_anybody_has_one():
    """nnU-Net crops to what is not zero: outside nobody has a share, which is not a share of 0."""
    host, partner = np.zeros((2, 1, 4, 4)), np.zeros((2, 1, 4, 4))
    host[:, :, :2], partner[:, :, :2] = 75, 25
    look = CaseLook({"stitched": np.zeros((1, 4, 4), int)}, {
        "disagreement": host, "share_host": host, "share_partner": partner}, {"spacing": (1.0, 1.0, 1.0)})
    row, = rows(np.zeros((1, 4, 4)), look, None, LABELS)
    assert {p.title: p.note for p in row.panels if p.heat is not None} == {
        "disagreement": "", "share of host": "mean 75 %", "share of partner": "mean 25 %"}


def test_dice_is_the_mean_over_regions_that_are_there_without_ignored_voxels():
    reference, prediction = volume(0, depth=1), volume(0, depth=1)
    assert mean_dice(reference, prediction, LABELS) == 1
    reference[0, 2, 2:6] = 9
    reference[0, 3, 3] = 2
    assert mean_dice(reference, prediction, LABELS) == 0.5
    assert np.isnan(mean_dice(0 * reference, 0 * reference, LABELS))


def test_three_channels_of_one_file_are_a_photograph_if_they_can_be():
    colours = np.arange(48, dtype=np.float32).reshape(3, 1, 4, 4)
    assert picture(colours).shape == (1, 4, 4, 3)
    for channels in (colours[:2], 100 * colours, colours - 1, np.repeat(colours, 2, 1)):
        np.testing.assert_array_equal(picture(channels), channels[0])
