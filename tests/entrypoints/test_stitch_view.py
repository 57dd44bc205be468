"""nnUNetv2_stitch_view: every answer is stock nnU-Net's with that model, every map the one that prediction writes."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from bridging.conftest import altered  # noqa: F401 -- a fixture
from gating.untrained import gated_folder
from matplotlib.image import imread
from partner_site import command, edit, refused
from stitched_model import stock_prediction

from nnunetv2_stitch.entrypoints import stitch_view
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.parties.model_folder import read_model_folder


def looked(model, case: Path, out: Path, *flags) -> dict[str, np.ndarray]:
    """What the command writes about a case beside its picture: by name, after the case's."""
    command(stitch_view, "-m", model, "-i", case, "-o", out, "-f", 0, "--disable_tta", *flags)
    return read(out)


def read(out: Path) -> dict[str, np.ndarray]:
    files = [f for f in sorted(out.iterdir()) if not f.name.endswith("_view.png")]
    assert len(files) == len(list(out.iterdir())) - 1
    return {f.name.split(".")[0][len("ts_000_"):]: array(f) for f in files}


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def stock(model, images: Path, out: Path) -> np.ndarray:
    """Of the first case."""
    found, = (array(f) for f in stock_prediction(model, images, out, mirroring=False).iterdir()
              if f.name.startswith("ts_000"))
    return found


def one_case(images: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in images.glob("ts_000_*"):
        shutil.copy(file, folder)
    return folder


def stitched(world, root: Path, *folders) -> Path:
    """A gated model of the world's parents, or of other model folders."""
    host, *partners = folders or (read_model_folder(str(world.model(p))) for p in world.parties)
    images = [world.test_images(p) for p in world.parties]
    return gated_folder(root / "model", host, partners, [*images, *images[1:]][:1 + len(partners)])


@pytest.fixture
def world(stitched2d, nnunet_env):
    return nnunet_env(stitched2d.world)


@pytest.mark.slow
def test_a_2d_case_by_file_name_or_folder(world, stitched2d, tmp_path, capsys):
    images = one_case(world.test_images(world.partner), tmp_path / "images")
    found = looked(stitched2d.folder, images / "ts_000_0000.nii.gz", tmp_path / "file")
    assert found.keys() == {"host", "partner", "stitched", "disagreement"}
    for what, model in (("stitched", stitched2d.folder), *((p, world.model(getattr(world, p)))
                                                           for p in ("host", "partner"))):
        np.testing.assert_array_equal(found[what], stock(model, images, tmp_path / f"stock_{what}"), what)
    predictor = StitchedPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(stitched2d.folder), 0)
    path, = predictor.save_disagreement(str(images), str(tmp_path / "map"))
    np.testing.assert_array_equal(found["disagreement"], array(Path(path)))
    assert found["disagreement"].max() > 50
    one, other = (sitk.ReadImage(str(p)) for p in (images / "ts_000_0000.nii.gz",
                                                   tmp_path / "file" / "ts_000_disagreement.nii.gz"))
    assert (one.GetSize(), one.GetSpacing(), one.GetOrigin(), one.GetDirection()) == (
        other.GetSize(), other.GetSpacing(), other.GetOrigin(), other.GetDirection())
    capsys.readouterr()
    labels = shutil.copy(world.test_labels(world.partner) / "ts_000.nii.gz", tmp_path / "ts_0001.nii.gz")
    named = looked(stitched2d.folder, images / "ts_000", tmp_path / "name", "-l", labels)
    said = capsys.readouterr().out
    assert "The file of labels is called ts_0001.nii.gz and the case ts_000: " in said
    assert said.count("\n") == 6 and all(str(f) in said for f in (tmp_path / "name").iterdir())
    command(stitch_view, "-d", world.host.dataset, "-i", images, "-o", tmp_path / "folder", "-f", 0, "--disable_tta")
    for other in (named, read(tmp_path / "folder")):
        assert all((other[what] == values).all() for what, values in found.items())
    with_labels, without = (imread(tmp_path / d / "ts_000_view.png") for d in ("name", "folder"))
    assert with_labels.shape[1] == without.shape[1] and with_labels.shape[1] > 2.5 * with_labels.shape[0]


@pytest.mark.slow
def test_a_3d_case_of_a_gated_model(world3d, nnunet_env, tmp_path, capsys):
    world = nnunet_env(world3d)
    images = one_case(world.test_images(world.partner), tmp_path / "images")
    labels = world.test_labels(world.partner) / "ts_000.nii.gz"
    (tmp_path / "out").mkdir()
    shutil.copy(labels, tmp_path / "out" / "ts_000_share_partner2.nii.gz")  # of an earlier look, with another model
    found = looked(model := stitched(world, tmp_path), images, tmp_path / "out", "-l", labels)
    for what, folder in (("stitched", model), ("host", world.model(world.host)),
                         ("partner", world.model(world.partner))):
        np.testing.assert_array_equal(found[what], stock(folder, images, tmp_path / f"stock_{what}"), what)
    assert (abs(found["share_host"].astype(int) + found["share_partner"] - 100) <= 1).all()
    share, party = re.search(r"answered (\d+) % by .* \((\w+)\), ", out := capsys.readouterr().out).groups()
    assert f"ts_000_share_partner2.nii.gz in {tmp_path / 'out'} lay there before and is not of this look" in out
    assert abs(found[f"share_{party}"].mean() - int(share)) <= 1 and int(share) > 50
    picture = imread(tmp_path / "out" / "ts_000_view.png")
    assert picture.shape[0] > picture.shape[1] / 3  # rows of slices


def in_regions(dataset) -> None:
    dataset.update(labels={"background": 0, "both": [1, 2], "b": 2}, regions_class_order=[1, 2])


def two_outputs(weights) -> None:
    weights.update({k: v[1:] for k, v in weights.items() if ".seg_layers." in k})


@pytest.mark.slow
def test_regions_of_three_parties_with_a_gate(world2d, altered, tmp_path):  # noqa: F811
    host, partner = (altered(world2d.model(p), None, in_regions, two_outputs, f"Dataset89{i}_Regions")
                     for i, p in enumerate(world2d.parties))
    images = one_case(world2d.test_images(world2d.host), tmp_path / "images")
    model = stitched(world2d, tmp_path, host, partner, partner)
    found = looked(model, images, tmp_path / "out")
    assert found.keys() == {"stitched", "disagreement", *("host", "partner", "partner2"),
                            *("share_host", "share_partner", "share_partner2")}
    for what, folder in (("stitched", model), ("host", host.path), ("partner2", partner.path)):
        np.testing.assert_array_equal(found[what], stock(folder, images, tmp_path / f"stock_{what}"), what)
    predictor = StitchedPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), 0)
    path, = predictor.save_share_maps(str(images), str(tmp_path / "map"))
    np.testing.assert_array_equal(found["share_host"], array(Path(path)))
    assert (abs(sum(found[f"share_{p}"].astype(int) for p in ("host", "partner", "partner2")) - 100) <= 1).all()


@pytest.mark.slow
def test_a_colour_image(world_rgb, nnunet_env, tmp_path):
    """Seen in its colours, and all files are png; labels as an outline."""
    world = nnunet_env(world_rgb)
    images = one_case(world.test_images(world.host), tmp_path / "images")
    found = looked(model := stitched(world, tmp_path), images, tmp_path / "out", "-l",
                   world.test_labels(world.host) / "ts_000.png")
    for what, folder in (("stitched", model), ("host", world.model(world.host))):
        np.testing.assert_array_equal(found[what], stock(folder, images, tmp_path / f"stock_{what}"), what)
    picture = imread(tmp_path / "out" / "ts_000_view.png")[..., :3]
    panel = picture[picture.shape[0] // 3:picture.shape[0] // 2, 60:60 + picture.shape[1] // 12]
    assert np.ptp(panel, axis=-1).mean() > 0.05


def with_two_channels(plans) -> None:
    schemes = ["ZScoreNormalization"] * 2
    plans["configurations"]["2d"].update(normalization_schemes=schemes, use_mask_for_norm=[False] * 2)
    channels = plans["foreground_intensity_properties_per_channel"]
    channels["1"] = channels["0"]


@pytest.mark.slow
def test_the_channel_that_is_named_is_shown(world, stitched2d, tmp_path):
    """Whichever file of a case is given, the model gets all of them: here it learned nothing of the second."""
    model = Path(shutil.copytree(stitched2d.folder, tmp_path / stitched2d.folder.name))
    edit(model / "plans.json", with_two_channels)
    edit(model / "dataset.json", lambda d: d.update(channel_names={"0": "MRI", "1": "noise"}))
    checkpoint = torch.load(path := model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    for name, value in checkpoint["network_weights"].items():
        if value.ndim == 4 and value.shape[1] == 1:
            checkpoint["network_weights"][name] = torch.cat([value, 0 * value], 1)
    torch.save(checkpoint, path)
    images = one_case(world.test_images(world.host), tmp_path / "images")
    host = stock(world.model(world.host), images, tmp_path / "stock")
    noise = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32))
    noise.CopyInformation(sitk.ReadImage(str(images / "ts_000_0000.nii.gz")))
    sitk.WriteImage(noise, str(images / "ts_000_0001.nii.gz"))
    pictures = []
    for channel in range(2):
        out = tmp_path / f"out{channel}"
        np.testing.assert_array_equal(looked(model, images / f"ts_000_000{channel}.nii.gz", out)["host"], host)
        pictures.append(imread(out / "ts_000_view.png"))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).mean() > 0.05


@pytest.mark.slow
def test_a_model_that_holds_only_its_host_says_what_is_not_shown(world, stitched2d, tmp_path, capsys):
    from nnunetv2_stitch.stitching.network import SETTING_KEY, decode_setting, encode_setting
    from nnunetv2_stitch.stitching.setting import Setting
    model = Path(shutil.copytree(stitched2d.folder, tmp_path / stitched2d.folder.name))
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["network_weights"]
    setting = Setting({}, "host", decode_setting(weights[SETTING_KEY]).combine)
    kept = {k: v for k, v in weights.items() if k.startswith("host.")}
    checkpoint["network_weights"] = {**kept, SETTING_KEY: encode_setting(setting)}
    torch.save(checkpoint, path)
    images = one_case(world.test_images(world.host), tmp_path / "images")
    found = looked(model, images, tmp_path / "out")
    assert found.keys() == {"host", "stitched"} and (found["host"] == found["stitched"]).all()
    assert "partner alone and the disagreement are not shown" in capsys.readouterr().out


def test_a_case_that_cannot_be_right_is_refused_in_one_line(world, stitched2d, tmp_path, capsys):
    """And nothing is written, nor predicted."""
    images, labels = world.test_images(world.partner), world.test_labels(world.partner)
    case = images / "ts_000_0000.nii.gz"
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(case, other / "ts_000.nii.gz")
    for channel in range(2):
        shutil.copy(case, other / f"two_{channel:04d}.nii.gz")
    (other / "broken_0000.nii.gz").write_bytes(b"no image")
    small = sitk.GetImageFromArray(np.ones((1, 32, 32), np.uint8))
    sitk.WriteImage(small, str(tmp_path / "small.nii.gz"))
    sitk.WriteImage(sitk.ReadImage(str(labels / "ts_000.nii.gz")) * 100, str(tmp_path / "foreign.nii.gz"))
    (tmp_path / "empty").mkdir()

    def bad(*flags):
        flags = list(map(str, flags))
        for flag, value in (("-m", stitched2d.folder), ("-i", case), ("-o", tmp_path / "out")):
            flags += [] if flag in flags or (flag == "-m" and "-d" in flags) else [flag, str(value)]
        with contextlib.redirect_stdout(io.StringIO()):
            return refused(tmp_path, capsys, stitch_view, *flags)

    assert f"no case ts_999_0000.nii.gz in {images}; give a file" in bad("-i", images / "ts_999_0000.nii.gz")
    assert "no case ts_000 in" in bad("-i", tmp_path / "nowhere" / "ts_000")
    assert f"{images} has 3 cases; give a file of the case to look at, e.g. -i {case}" in bad("-i", images)
    assert "has no file named CASE_0000.nii.gz" in bad("-i", tmp_path / "empty")
    assert "whose files are named CASE_0000.nii.gz" in bad("-i", other / "ts_000.nii.gz")
    assert "case two in" in (said := bad("-i", other / "two")) and "the model needs 1" in said
    assert "broken_0000.nii.gz or another file of its case cannot be read" in bad("-i", other / "broken")
    assert f"small.nii.gz is of another image than {case}: shapes are (1, 32, 32) and (1, 64, 64)" in bad(
        "-l", tmp_path / "small.nii.gz")
    for name, moved, said in (("spacing", "SetSpacing", "voxel spacing"), ("origin", "SetOrigin", "origin differs")):
        elsewhere = sitk.ReadImage(str(labels / "ts_000.nii.gz"))
        getattr(elsewhere, moved)((3.0, 4.0, 5.0))
        sitk.WriteImage(elsewhere, str(tmp_path / f"{name}.nii.gz"))
        assert f"{name}.nii.gz is of another image than {case}: both have shape (1, 64, 64)" in (
            err := bad("-l", tmp_path / f"{name}.nii.gz")) and said in err
    assert "holds none of the model's labels (1, 2)" in bad("-l", tmp_path / "foreign.nii.gz")
    assert f"{case} holds values between whole numbers" in bad("-l", case)
    assert "does not exist; give the file of this case's labels" in bad("-l", labels / "ts_999.nii.gz")
    assert "small.nii.gz is a file; choose another folder" in bad("-o", tmp_path / "small.nii.gz")
    assert "either -d DATASET or -m MODEL_FOLDER" in bad("-d", 801, "-m", stitched2d.folder)
    assert "is no stitched model" in bad("-m", world.model(world.host))
