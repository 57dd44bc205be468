"""Names that say which is which are matched by name; where they repeat, by spelling or else by order."""

import pytest

from nnunetv2_stitch.bridging.names import match_names
from nnunetv2_stitch.errors import StitchError

RGB = ["rgb_to_0_1"] * 3


def sources(host, partner, **synonyms):
    found = match_names(host, partner, synonyms, "channel")
    return found.sources, found.unmatched


@pytest.mark.parametrize(("host", "partner", "wanted", "unmatched"), [
    (RGB, RGB, ((0,), (1,), (2,)), ()),
    (["CT", "T1", "CT"], ["T1", "CT", "CT"], ((1,), (0,), (2,)), ()),
    (["ct", "T1"], ["CT", "t1"], ((0,), (1,)), ()),
    (["Tumour-1", "tumour_1"], ["tumour_1", "Tumour-1"], ((1,), (0,)), ()),
    (["Tumour-1", "tumour_1"], ["tumour_1"], ((), (0,)), ()),  # spelled alike
    (["tumour_1"], ["Tumour-1", "tumour_1"], ((1,),), ("Tumour-1",)),
    (["Tumour-1", "tumour_1"], ["TUMOUR 1", "tumour 1"], ((0,), (1,)), ()),
    (["CT", "CT"], ["T1"], ((), ()), ("T1",)),
])
def test_which_is_which(host, partner, wanted, unmatched):
    assert sources(host, partner) == (wanted, unmatched)


@pytest.mark.parametrize(("host", "partner"), [(["CT", "CT"], ["CT"]), (["CT"], ["CT", "CT"]), (["CT"] * 3, RGB[:1] + [
    "CT", "ct"])])
def test_more_of_one_name_on_one_side_is_refused(host, partner):
    with pytest.raises(StitchError, match="which is which.*dataset.json.*-channel_map"):
        sources(host, partner)


def test_a_map_tells_apart_what_is_nearly_one_name():
    assert sources(["left", "right"], ["Lung-1", "lung_1"], **{"Lung-1": "right", "lung_1": "left"}) \
        == (((1,), (0,)), ())
    assert sources(["lung 1"], ["Lung-1", "lung_1"], **{"Lung-1": None}) == (((1,),), ("Lung-1",))
    assert sources(["lung 1"], ["Lung-1", "lung_1"], **{"Lung-1": "lung 1"}) == (((0, 1),), ())
    assert sources(["a"], ["one thing", "a"], ONE_THING="a") == (((0, 1),), ())
