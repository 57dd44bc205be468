"""Images are grouped by their names, and their channels counted in what nnU-Net's readers return, whatever the file."""

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.inference.images import require_images

NIFTI, PNG = (".nii.gz", SimpleITKIO()), (".png", NaturalImage2DIO())


def volume(path, shape=(2, 4, 4)):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, np.float32)), str(path))


def picture(path, channels=3):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 4, channels), np.uint8), isVector=channels > 1), str(path))


def count(folder, channels, kind):
    ending, reader = kind
    return require_images(str(folder), ending, channels, reader)


def test_a_file_per_channel(tmp_path):
    with pytest.raises(StitchError, match="nothing to predict in .*CASE_0000.nii.gz"):
        count(tmp_path, 1, NIFTI)
    with pytest.raises(StitchError, match="nowhere does not exist"):
        count(tmp_path / "nowhere", 1, NIFTI)
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "x.nii.gz"):
        volume(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StitchError, match=r"case b in .* has 1 channel \(b_0000.nii.gz\), the model needs 2"):
        count(tmp_path, 2, NIFTI)
    volume(tmp_path / "b_0002.nii.gz")
    with pytest.raises(StitchError, match="case b has files 0000, 0002, case a 0000, 0001; number"):
        count(tmp_path, 2, NIFTI)
    (tmp_path / "b_0002.nii.gz").rename(tmp_path / "b_0001.nii.gz")
    assert count(tmp_path, 2, NIFTI) == 2


def test_all_channels_in_one_file(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}_0000.png")
        sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(np.ones((2, 4, 4), np.float32))] * 2),
                        str(tmp_path / f"{name}_0000.nii.gz"))
    assert count(tmp_path, 3, PNG) == 2 and count(tmp_path, 2, NIFTI) == 2
    with pytest.raises(StitchError, match=r"case a in .* has 3 channels \(a_0000.png\), the model needs 1"):
        count(tmp_path, 1, PNG)


def test_what_systems_leave_beside_images_is_passed_over(tmp_path):
    picture(tmp_path / "a_0000.png")
    for name in ("._a_0000.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"of a system")
    (tmp_path / "folder_0000.png").mkdir()
    assert count(tmp_path, 3, PNG) == 1


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a_0000.png").write_bytes(b"no image")
    with pytest.raises(StitchError, match="a_0000.png or another file of its case cannot be read"):
        count(tmp_path, 3, PNG)
