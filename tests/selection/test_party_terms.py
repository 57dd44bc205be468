import numpy as np
import pytest

from nnunetv2_stitch.bridging.names import NameMaps
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.selection.party_terms import party_terms

LABELS = {"background": 0, "liver": 1, "tumour": 2}


def dataset(labels=None, channels=("T1", "T2"), **more):
    return {"labels": labels or LABELS, "channel_names": {str(i): c for i, c in enumerate(channels)}, **more}


def model(**arguments):
    plans = {"label_manager": "LabelManager", "plans_name": "p", "dataset_name": "d", "image_reader_writer": "x",
             "configurations": {}}
    return ModelFolder("/model", "Dataset001_A", "t", "p", "2d", plans, dataset(**arguments), (0,))


def test_the_same_dataset_changes_nothing():
    terms = party_terms(model(), dataset())
    assert terms.channels == (0, 1) and terms.renumber == {0: 0, 1: 1, 2: 2} and not terms.unlabelled
    assert terms.dataset_json == dataset()


def test_order_and_spelling_do_not_matter_and_other_labels_become_background():
    terms = party_terms(model(), dataset({"background": 0, "spleen": 1, "Tumour": 2, "LIVER": 3}, ("t2", "CT", "t1")))
    assert terms.channels == (2, 0) and terms.renumber == {0: 0, 1: 0, 2: 2, 3: 1}
    segmentation = np.array([[0, 1, 2, 3]], dtype=np.int8)
    assert terms.renumbered(segmentation, "case").tolist() == [[0, 0, 2, 1]]
    with pytest.raises(StitchError, match="case holds label 4"):
        terms.renumbered(segmentation + 1, "case")


def test_labels_that_the_party_does_not_have_are_not_scored():
    terms = party_terms(model(), dataset({"background": 0, "tumour": 1}))
    assert terms.unlabelled == (0,) and terms.renumber == {0: 0, 1: 2}


def test_synonyms():
    terms = party_terms(model(), dataset({"background": 0, "hepar": 1, "cyst": 2, "met": 3}, ("A", "T2")),
                        NameMaps({"hepar": "liver", "cyst": None, "met": "tumour"}, {"A": "T1"}))
    assert terms.renumber == {0: 0, 1: 1, 2: 0, 3: 2} and terms.channels == (0, 1)


@pytest.mark.parametrize(("ours", "theirs", "wanted"), [(None, 3, 3), (3, 3, 3), (3, 2, 3)])
def test_the_ignore_label_is_ignored_whoever_has_it(ours, theirs, wanted):
    host = {**LABELS, **({"ignore": ours} if ours else {})}
    labels = {"background": 0, "tumour": 1, **({"liver": 2} if theirs == 3 else {}), "ignore": theirs}
    terms = party_terms(model(labels=host), dataset(labels))
    assert terms.renumber[theirs] == wanted and terms.dataset_json["labels"]["ignore"] == wanted


REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def test_regions_only_where_they_are_the_same():
    host = model(labels=REGIONS, regions_class_order=[1, 2])
    terms = party_terms(host, dataset(REGIONS, ("T2", "T1"), regions_class_order=[1, 2]))
    assert terms.renumber is None and terms.channels == (1, 0)
    segmentation = np.array([[7]])
    assert terms.renumbered(segmentation, "case") is segmentation
    for ours, theirs in ((host, dataset()), (model(), dataset(REGIONS, regions_class_order=[1, 2])),
                         (host, dataset({**REGIONS, "core": 1}, regions_class_order=[1, 2]))):
        with pytest.raises(StitchError, match="regions"):
            party_terms(ours, theirs)


@pytest.mark.parametrize(("theirs", "said"), [
    (dataset(channels=("T1",)), "needs channel T2"),
    (dataset({"background": 0, "x": 1}), "-label_map"),
    (dataset({"liver": 1}), "is not nnU-Net v2's"),
    ({"labels": LABELS}, "is not nnU-Net v2's"),
    ({"channel_names": {"0": "T1"}}, "is not nnU-Net v2's"),
])
def test_what_does_not_fit_is_said_in_one_line(theirs, said):
    with pytest.raises(StitchError, match=said) as caught:
        party_terms(model(), theirs)
    assert "\n" not in str(caught.value)
