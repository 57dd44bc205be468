import json

import nibabel
import numpy as np
import pytest

from nnunetv2_stitch.demo.data import LABELS, PARTIES, blocked_splits, load_party, write_party
from nnunetv2_stitch.errors import StitchError


def number(name):
    return int(name.rsplit("_", 1)[1])


@pytest.mark.parametrize("key", PARTIES)
def test_written_dataset_holds_the_shipped_integers_and_geometry(tmp_path, key):
    data = load_party(key)
    assert write_party(key, str(tmp_path)) == PARTIES[key].dataset
    folder = tmp_path / PARTIES[key].dataset
    for split in ("Tr", "Ts"):
        assert len(list((folder / f"images{split}").iterdir())) == len(data.names[split])
        for i, name in enumerate(data.names[split]):
            image = nibabel.load(folder / f"images{split}" / f"{name}_0000.nii.gz")
            labels = nibabel.load(folder / f"labels{split}" / f"{name}.nii.gz")
            assert image.shape == labels.shape == (128, 128, 1)
            for nii in (image, labels):
                np.testing.assert_allclose(nii.affine, np.diag([-1.5, -1.5, 999, 1]))
                np.testing.assert_allclose(nii.header.get_zooms(), (1.5, 1.5, 999))
            stored = np.asarray(image.dataobj)[..., 0]
            np.testing.assert_array_equal(np.round(stored / data.scale), data.images[split][i])
            np.testing.assert_array_equal(np.asarray(labels.dataobj)[..., 0], data.labels[split][i])
    description = json.loads((folder / "dataset.json").read_text())
    assert description["numTraining"] == len(data.names["Tr"])
    assert description["labels"] == LABELS


@pytest.mark.parametrize("key", PARTIES)
def test_labels_are_those_that_are_declared(key):
    data = load_party(key)
    every = np.concatenate([data.labels["Tr"], data.labels["Ts"]])
    assert sorted(np.unique(every)) == sorted(LABELS.values())


@pytest.mark.parametrize("key", PARTIES)
def test_training_and_test_slices_are_never_neighbours(key):
    names = load_party(key).names
    training = {number(n) for n in names["Tr"]}
    assert all(abs(number(n) - t) > 1 for n in names["Ts"] for t in training)


@pytest.mark.parametrize("key", PARTIES)
def test_splits_hold_out_whole_blocks(key):
    names = load_party(key).names["Tr"]
    splits = blocked_splits(names)
    assert len(splits) >= 4
    for split in splits:
        assert sorted(split["train"] + split["val"]) == sorted(names)
        assert all(abs(number(v) - number(t)) > 1 for v in split["val"] for t in split["train"])
        assert 0.15 < len(split["val"]) / len(names) < 0.25
    assert [number(n) for n in splits[0]["val"]] == list(range(26, 34))


def test_of_a_party_that_is_only_tested_no_training_image_is_written(tmp_path):
    folder = tmp_path / write_party("B", str(tmp_path), ["Ts"])
    assert sorted(p.name for p in folder.iterdir()) == ["dataset.json", "imagesTs", "labelsTs"]


def test_unknown_party_is_refused(tmp_path):
    with pytest.raises(StitchError, match="no party 'C'"):
        write_party("C", str(tmp_path))
