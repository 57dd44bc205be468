"""The four ways to answer, against stock nnU-Net on each parent."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from stitched_model import assert_equal_voxels, read_segmentations

from nnunetv2_stitch.inference.predictor import StitchedPredictor

OPTIONS = {"device": torch.device("cpu"), "allow_tqdm": False, "perform_everything_on_device": False}
CASES = 3


@pytest.fixture(scope="module", params=[pytest.param((0,), marks=pytest.mark.slow), (0, 1)],
                ids=["one_fold", "two_folds"])
def predictions(request, stitched2d, tmp_path_factory):
    """Folders with what stock nnU-Net predicts with either parent, and with the stitched model, with probabilities."""
    world, folders = stitched2d.world, {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.env.items():
            patch.setenv(name, value)
        for name, model in (("host", world.model(world.host)), ("partner", world.model(world.partner)),
                            ("stock", stitched2d.folder)):
            predictor = nnUNetPredictor(**OPTIONS)
            predictor.initialize_from_trained_model_folder(str(model), request.param)
            folders[name] = predict(predictor, world, tmp_path_factory.mktemp(name))
    return request.param, folders


def predict(predictor, world, folder):
    predictor.predict_from_files_sequential(str(world.test_images(world.partner)), str(folder), True)
    return folder


def probabilities(folder):
    return {p.name: np.load(p)["probabilities"] for p in sorted(folder.glob("*.npz"))}


def load(stitched, folds=None, mode="stitched", **options):
    predictor = StitchedPredictor(**{**OPTIONS, **options})
    predictor.initialize_from_trained_model_folder(str(stitched.folder), folds, mode=mode)
    return predictor


@pytest.mark.parametrize("mode", ["host", "partner"])
def test_one_parent_alone_is_the_bare_parent(mode, predictions, stitched2d, tmp_path):
    folds, folders = predictions
    predict(load(stitched2d, folds, mode), stitched2d.world, tmp_path)
    assert_equal_voxels(tmp_path, folders[mode], CASES)
    other = read_segmentations(folders["partner" if mode == "host" else "host"])
    assert any((v != other[k]).any() for k, v in read_segmentations(tmp_path).items()), "the parents must differ"


def test_stitched_is_what_stock_nnunet_makes_of_the_folder(predictions, stitched2d, tmp_path):
    folds, folders = predictions
    predict(load(stitched2d, folds), stitched2d.world, tmp_path)
    assert_equal_voxels(tmp_path, folders["stock"], CASES)


def bare(stitched, party, folder):
    """Probabilities of stock nnU-Net with one fold of a parent, without mirroring."""
    predictor = nnUNetPredictor(**OPTIONS, use_mirroring=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", stitched.world.env["nnUNet_extTrainer"])
        predictor.initialize_from_trained_model_folder(str(stitched.world.model(party)), (0,))
    return probabilities(predict(predictor, stitched.world, folder))


@pytest.mark.slow
def test_the_plain_ensemble_is_the_mean_of_probabilities(stitched2d, tmp_path):
    """Exactly so for one fold and without mirroring: nnU-Net averages folds and mirror images as logits."""
    world = stitched2d.world
    for name in ("host", "partner", "both"):
        (tmp_path / name).mkdir()
    host, partner = (bare(stitched2d, party, tmp_path / name)
                     for name, party in (("host", world.host), ("partner", world.partner)))
    got = probabilities(predict(load(stitched2d, (0,), "ensemble", use_mirroring=False), world, tmp_path / "both"))
    assert len(got) == CASES
    for case, values in got.items():
        # nnU-Net keeps the sliding window's sums in half precision
        np.testing.assert_allclose(values, (host[case] + partner[case]) / 2, atol=1e-2)
        assert np.abs(host[case] - partner[case]).max() > 0.5


@pytest.mark.slow
def test_a_kept_predictor_changes_modes_and_back_between_cases(stitched2d):
    image = np.random.default_rng(0).normal(100, 50, (1, 1, 64, 64)).astype(np.float32)
    properties = {"spacing": (999.0, 1.0, 1.0)}
    predictor = load(stitched2d)

    def answer(predictor):
        return predictor.predict_single_npy_array(image, properties, save_or_return_probabilities=True)[1]

    fresh = {mode: answer(load(stitched2d, mode=mode)) for mode in ("stitched", "host", "partner", "ensemble")}
    for mode in ("stitched", "host", "partner", "stitched", "ensemble", "host", "stitched"):
        predictor.set_mode(mode)
        np.testing.assert_array_equal(answer(predictor), fresh[mode])
    assert not np.array_equal(fresh["host"], fresh["stitched"])


@pytest.mark.slow
def test_disagreement_is_a_map_in_percent_on_the_image_grid(stitched2d, tmp_path):
    world = stitched2d.world
    predictor = load(stitched2d, (0,), use_mirroring=False)
    images = world.test_images(world.partner)
    written = predictor.save_disagreement(str(images), str(tmp_path / "map"))
    assert len(written) == CASES and predictor.mode == "stitched"
    parents = [probabilities(predict(load(stitched2d, (0,), mode, use_mirroring=False), world, tmp_path / mode))
               for mode in ("host", "partner")]
    for path in written:
        image = sitk.ReadImage(path)
        case = path.split("/")[-1].split(".")[0]
        source = sitk.ReadImage(str(images / f"{case}_0000.nii.gz"))
        assert (image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()) == (
            source.GetSize(), source.GetSpacing(), source.GetOrigin(), source.GetDirection())
        values = sitk.GetArrayFromImage(image)
        wanted = 50 * np.abs(parents[0][f"{case}.npz"] - parents[1][f"{case}.npz"]).sum(0)
        np.testing.assert_allclose(values, wanted, atol=1.5)
        assert values.min() < 20 and 80 < values.max() <= 100
    assert predictor.save_disagreement(str(images), str(tmp_path / "map"), overwrite=False) == []
    half = predictor.save_disagreement(str(images), str(tmp_path / "half"), num_parts=2, part_id=1)
    assert [p.split("/")[-1] for p in half] == ["ts_001.nii.gz"]


@pytest.mark.slow
def test_twins_disagree_nowhere(stitched2d, copy_world, tmp_path):
    """The host in both places."""
    predictor = load(stitched2d, (0,), use_mirroring=False)
    network = predictor.network
    twin = {k: v for k, v in predictor.list_of_parameters[0].items() if not k.startswith(("partner.", "switches."))}
    twin |= {"partner" + k[len("host"):]: v for k, v in twin.items() if k.startswith("host.")}
    from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble
    from nnunetv2_stitch.stitching.setting import Setting, encode_setting
    twin[SETTING_KEY] = encode_setting(Setting())
    predictor.network = StitchedEnsemble(1, 3, [network.parents[0]] * 2, [], None, [], False)
    predictor._deployed = [twin]
    predictor.set_mode("stitched")
    world = stitched2d.world
    for path in predictor.save_disagreement(str(world.test_images(world.host)), str(tmp_path)):
        assert not sitk.GetArrayFromImage(sitk.ReadImage(path)).any()
