"""A bridged partner answers as its own stock pipeline does on the same images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from other_terms import called, ct, grid, heads_swapped, in_2d, relabelled, scheme, transposed, turned

from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps
from nnunetv2_stitch.parties.model_folder import read_model_folder

LIKE_Z = (20.0, 90.0, -200.0, 250.0)  # of the partner's images; a map near their z-score

CASES = {
    # name: (changes of the host, changes of the partner, maps, smallest Dice)
    "same": ({}, {}, NO_MAPS, 1.0),
    "CT to CT": (dict(plans=ct(10., 60., -250., 300.)), dict(plans=ct(*LIKE_Z)), NO_MAPS, 0.999),
    "CT to CT, host clips": (dict(plans=ct(10., 60., -150., 200.)), dict(plans=ct(*LIKE_Z)), NO_MAPS, 0.98),
    "none to CT": (dict(plans=scheme("NoNormalization")), dict(plans=ct(*LIKE_Z)), NO_MAPS, 0.999),
    "CT to z-score": (dict(plans=ct(10., 60., -250., 300.)), {}, NO_MAPS, 0.98),
    "z-score to CT": ({}, dict(plans=ct(*LIKE_Z)), NO_MAPS, 0.98),
    "z-score to range": ({}, dict(plans=scheme("RescaleTo01Normalization")), NO_MAPS, 0.98),
    "axes": ({}, dict(plans=transposed, weights=turned), NO_MAPS, 0.999),
    "labels": ({}, dict(dataset=relabelled, weights=heads_swapped), NameMaps({"first": "a", "second": "b"}, {}), 1.0),
    "labels, nearly one name": (dict(dataset=called("Tumour-1", "tumour_1")), dict(
        dataset=called("tumour_1", "Tumour-1"), weights=heads_swapped), NO_MAPS, 1.0),
    "finer": ({}, dict(plans=grid(0.8, 80)), NO_MAPS, 0.99),
    "much finer": ({}, dict(plans=grid(0.5, 128)), NO_MAPS, 0.99),
    "coarser": ({}, dict(plans=grid(1.6, 40)), NO_MAPS, 0.99),
    "coarser, padded": ({}, dict(plans=grid(1.3, 56)), NO_MAPS, 0.95),
}


QUICK = ("same", "CT to CT", "axes", "labels", "finer")


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_same_answer(case, world2d, altered, tmp_path, stock_prediction, bridged_prediction, agreement):
    host_changes, partner_changes, maps, least = CASES[case]
    host = altered(world2d.model(world2d.host), **host_changes, name="Dataset898_Host")
    partner = altered(world2d.model(world2d.partner), **partner_changes)
    images = world2d.test_images(world2d.partner)
    own = stock_prediction(partner.path, images, tmp_path / "own")
    if case.startswith("labels"):  # own answers are in the partner's numbers
        own = {k: np.choose(v, [0, 2, 1]) for k, v in own.items()}
    assert all(len(np.unique(v)) == 3 for v in own.values())
    found = agreement(own, bridged_prediction(host, partner, images, tmp_path / "bridged", maps))
    print(f"{case}: {found:.4f}")
    assert found >= least


@pytest.mark.slow
def test_channels_in_another_order(world2d, altered, tmp_path, stock_prediction, bridged_prediction, agreement):
    def second_channel(dataset):
        dataset["channel_names"] = {"0": "noise", "1": "MRI"}

    def two_schemes(plans):
        in_2d(normalization_schemes=["ZScoreNormalization"] * 2, use_mask_for_norm=[False] * 2)(plans)
        plans["foreground_intensity_properties_per_channel"]["1"] = plans[
            "foreground_intensity_properties_per_channel"]["0"]

    def wider(weights):
        for name, value in weights.items():
            if value.ndim == 4 and value.shape[1] == 1 and value.shape[2] == 3:
                weights[name] = torch.cat([torch.zeros_like(value), value], 1)
    host = altered(world2d.model(world2d.host), two_schemes, second_channel, wider, name="Dataset898_Host")
    partner = read_model_folder(str(world2d.model(world2d.partner)))
    images, both = world2d.test_images(world2d.partner), tmp_path / "both"
    both.mkdir()
    for file in sorted(Path(images).glob("*_0000.nii.gz")):
        shutil.copy(file, both / file.name.replace("_0000.", "_0001."))
        shutil.copy(sorted(Path(world2d.test_images(world2d.host)).glob("*.nii.gz"))[0], both / file.name)
    own = stock_prediction(partner.path, images, tmp_path / "own")
    assert agreement(own, bridged_prediction(host, partner, both, tmp_path / "bridged")) == 1.0
    # The host reads the same two files in its own order.
    alone = stock_prediction(host.path, both, tmp_path / "host")
    assert agreement(alone, bridged_prediction(host, partner, both, tmp_path / "b", answer="host")) == 1.0


@pytest.mark.slow
def test_a_label_only_the_host_has(world2d, altered, tmp_path, stock_prediction, bridged_prediction):
    """The partner has no say on it: the ensemble keeps the host's share of what the partner calls background."""
    def only_a(dataset):
        dataset["labels"] = {"background": 0, "a": 1}

    def two_heads(weights):
        for name, value in weights.items():
            if ".seg_layers." in name:
                weights[name] = value[:2]
    host = altered(world2d.model(world2d.host), name="Dataset898_Host")
    same = altered(world2d.model(world2d.host), dataset=only_a, weights=two_heads)
    images = world2d.test_images(world2d.host)
    own = stock_prediction(host.path, images, tmp_path / "own")
    both = bridged_prediction(host, same, images, tmp_path / "both", answer="ensemble")
    found = sum((both[k] == 2).sum() for k in own) / sum((own[k] == 2).sum() for k in own)
    assert 0.9 < found < 1.1
    theirs = bridged_prediction(host, same, images, tmp_path / "theirs")
    assert set(np.unique(np.concatenate([v.ravel() for v in theirs.values()]))) == {0, 1}


@pytest.mark.slow
def test_stitching_parties_that_differ(world2d, copy_world, nnunet_env, altered, tmp_path, stock_prediction,
                                       thread_pools):
    """The main job with a partner of another grid, normalisation and numbering, from a zip with the host's own id."""
    from nnunetv2_stitch.inference.predictor import StitchedPredictor
    from nnunetv2_stitch.pipeline.run import train_stitch

    def plans(p):
        grid(0.8, 80)(p)
        ct(*LIKE_Z)(p)
    partner = altered(world2d.model(world2d.partner), plans, relabelled, heads_swapped, world2d.host.dataset)
    folder = Path(partner.path)
    sent = shutil.make_archive(str(tmp_path / "partner"), "zip", folder.parent.parent, f"{folder.parent.name}")
    world = nnunet_env(copy_world(world2d))
    result = train_stitch(world.host.dataset, None, model_b=sent, device="cpu", epochs=1, iterations=3,
                          folds=[0], progress=False, names=NameMaps({"first": "a", "second": "b"}, {}))
    assert result.table[0]["A"] > 0.8
    images = world.test_images(world.host)
    stock = stock_prediction(result.model_folder, images, tmp_path / "stock")
    assert all(len(np.unique(v)) > 1 for v in stock.values())
    ours = StitchedPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    ours.initialize_from_trained_model_folder(result.model_folder, (0,))
    ours.predict_from_files_sequential(str(images), str(tmp_path / "ours"))
    import SimpleITK as sitk
    for name, labels in stock.items():
        assert np.array_equal(labels, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ours" / name))))


@pytest.mark.slow
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_same_answer_in_3d(order, world3d, altered, tmp_path, stock_prediction, bridged_prediction, agreement):
    """Axes in another order, and voxels that differ along each of them."""
    def plans(p):
        p.update(transpose_forward=order, transpose_backward=[order.index(a) for a in range(3)])
        p["configurations"]["3d_fullres"].update(spacing=[[0.75, 1.5, 1.0][a] for a in order],
                                                 patch_size=[[32, 16, 24][a] for a in order])

    def turned_3d(weights):
        for name, value in weights.items():
            if value.ndim == 5:
                weights[name] = value.permute(0, 1, *(2 + a for a in order)).contiguous()
    host = altered(world3d.model(world3d.host), name="Dataset898_Host")
    partner = altered(world3d.model(world3d.partner), plans, weights=turned_3d)
    images = world3d.test_images(world3d.partner)
    own = stock_prediction(partner.path, images, tmp_path / "own")
    found = agreement(own, bridged_prediction(host, partner, images, tmp_path / "bridged"))
    print(f"3d {order}: {found:.4f}")
    assert found >= 0.95
