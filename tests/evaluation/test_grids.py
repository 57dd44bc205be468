"""What is compared voxel by voxel lies on one grid, or that is said, whichever of nnU-Net's readers read it."""

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from nnunetv2_stitch.evaluation.evaluate import evaluate
from nnunetv2_stitch.evaluation.grids import difference, grid_of

SHAPE, SPACING = (4, 5, 6), (0.7, 0.8, 2.5)  # (z, y, x) and (x, y, z)
TURNED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def grid(path, reader, origin=(10.0, -20.0, 30.0), direction=TURNED, spacing=SPACING):
    image = sitk.GetImageFromArray(np.zeros(SHAPE, np.uint8))
    image.SetOrigin(origin), image.SetDirection(direction), image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return grid_of(reader.read_seg(str(path))[1])


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_every_reader_that_knows_a_place(reader, tmp_path):
    path, reader = tmp_path / "a.nii.gz", reader()
    first = grid(path, reader)
    assert difference(SHAPE, first, grid(path, reader)) == ""
    assert difference(SHAPE, first, grid(path, reader, origin=(10.001, -20.0, 30.0))) == ""  # a header's rounding
    assert difference(SHAPE, first, grid(path, reader, origin=(12.0, -20.0, 30.0))) \
        == "origin differs, voxels are up to 2 mm apart"
    assert difference(SHAPE, first, grid(path, reader, spacing=(0.9, 0.8, 2.5))).startswith("voxel spacing 2.5 x 0.")
    if reader.__class__ in (SimpleITKIO, NibabelIO):  # the others bring both to one orientation
        assert difference(SHAPE, first, grid(path, reader, direction=FLIPPED)).startswith("direction differs")


def test_readers_agree_where_voxels_lie(tmp_path):
    one, two = (grid(tmp_path / "a.nii.gz", reader) for reader in (SimpleITKIO(), NibabelIO()))
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-4)


def test_pictures_and_2d_images_have_no_third_axis(tmp_path):
    grids = []
    for origin in ((0.0, 0.0), (0.0, 5.0)):
        image = sitk.GetImageFromArray(np.zeros((5, 6), np.uint8))
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(tmp_path / "a.mha"))
        grids.append(grid_of(SimpleITKIO().read_seg(str(tmp_path / "a.mha"))[1]))
    assert difference((1, 5, 6), *grids) == "origin differs, voxels are up to 5 mm apart"
    assert difference((1, 5, 6), grid_of({"spacing": (999, 1, 1)}), grid_of({"spacing": (999, 1, 1)})) == ""


def test_a_comparison_says_which_predictions_lie_elsewhere(files):
    same = evaluate(files.entries(), files.test_sets(), resamples=50)
    assert not any("elsewhere" in line for line in same.remarks)
    for name in ("case_1", "case_2"):
        path = str(files.model("joined") / "B" / f"{name}.nii.gz")
        image = sitk.ReadImage(path)
        image.SetOrigin((0.0, 7.5, 0.0))
        sitk.WriteImage(image, path)
    found = evaluate(files.entries(), files.test_sets(), resamples=50)
    said, = (line for line in found.remarks if "elsewhere" in line)
    assert said.startswith("2 predictions of joined on B lie elsewhere than their references, first case case_1: ")
    assert "origin differs, voxels are up to 7.5 mm" in said and found.scores == same.scores
