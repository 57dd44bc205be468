"""Kind: plans and dataset.json are read through nnU-Net's own managers, so that whatever stock nnU-Net accepts, plans
of its first versions and old names of entries included, is accepted in its meaning."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from model_folders import DATASET_JSON, plans_for
from other_terms import ct
from stitched_model import SHORT, read_segmentations, stitch
from world import PLANS

from nnunetv2_stitch.bridging.report import require_bridge
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.exchange.install import install_party
from nnunetv2_stitch.federation.data import _properties, resolved
from nnunetv2_stitch.merging.output import _of_plans
from nnunetv2_stitch.parties.model_folder import read_model_folder

pytestmark = pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
NEW, OLD = (f"foreground_intensity_properties_{what}" for what in ("per_channel", "by_modality"))
WIDE, NARROW = (10., 60., -250., 300.), (20., 90., -200., 250.)


def first_version(plans: dict) -> None:
    """Plans as the first versions of nnU-Net v2 wrote them, for the plain U-Nets of the tests' worlds."""
    plans[OLD] = plans.pop(NEW)
    for configuration in plans["configurations"].values():
        network = configuration.pop("architecture")["arch_kwargs"]
        features = network["features_per_stage"]
        configuration.update(
            UNet_class_name="PlainConvUNet", UNet_base_num_features=features[0], unet_max_num_features=max(features),
            n_conv_per_stage_encoder=network["n_conv_per_stage"],
            n_conv_per_stage_decoder=network["n_conv_per_stage_decoder"], conv_kernel_sizes=network["kernel_sizes"],
            pool_op_kernel_sizes=network["strides"],
            num_pool_per_axis=[len(features) - 1] * len(network["strides"][0]))


def old_ct(*constants):
    def change(plans):
        ct(*constants)(plans)
        first_version(plans)
    return change


def old_names(dataset_json: dict) -> None:
    dataset_json["modality"] = {"first": dataset_json.pop("channel_names")["0"]}


@pytest.mark.slow
def test_intensities_under_their_old_name_are_bridged(world2d, altered, tmp_path, stock_prediction, bridged_prediction,
                                                      agreement):
    """A new host stopped with KeyError; two old ones of other constants were taken for the same, without a word."""
    host, partner = world2d.model(world2d.host), world2d.model(world2d.partner)
    hosts = altered(host, ct(*WIDE), name="Dataset897_New"), altered(host, old_ct(*WIDE), name="Dataset898_Old")
    partner = altered(partner, old_ct(*NARROW), old_names)
    images = world2d.test_images(world2d.partner)
    own = stock_prediction(partner.path, images, tmp_path / "own")
    for number, party in enumerate(hosts):
        report = require_bridge(party, partner)
        assert not report.bridge.is_identity
        found = bridged_prediction(party, partner, images, tmp_path / str(number))
        assert agreement(own, found) >= 0.999
    with_same = altered(host, old_ct(*NARROW), name="Dataset896_Same")
    assert require_bridge(with_same, partner).bridge.is_identity


def test_old_models_travel(world2d, altered, tmp_path, stock_prediction):
    """Exported, installed and run by stock nnU-Net with the same voxels."""
    model = altered(world2d.model(world2d.partner), old_ct(*NARROW), old_names)
    images = world2d.test_images(world2d.partner)
    before = stock_prediction(model.path, images, tmp_path / "before")
    sent = export_party(model, str(tmp_path / "party.zip"))
    (tmp_path / "results").mkdir()
    received = install_party(sent.path, "SiteB", str(tmp_path / "results"))
    after = stock_prediction(received.path, images, tmp_path / "after")
    assert before.keys() == after.keys() and all((v == after[k]).all() for k, v in before.items())
    assert all(v.any() for v in before.values())


def test_whatever_keys_channels_have_their_order_counts(make_model, edit):
    folder = make_model("Dataset911_A")
    for names in ({"b": "T2", "a": "T1"}, {"10": "T2", "9": "T1"}, {"0": "T2", "2": "T1"}):
        edit(folder / "dataset.json", lambda d, names=names: d.update(channel_names=names))
        model = read_model_folder(str(folder))
        assert model.channel_names == ["T2", "T1"] and model.num_input_channels == 2
    edit(folder / "dataset.json", lambda d: d.update(modality={"0": "CT"}))  # nnU-Net asks for this name first
    model = read_model_folder(str(folder))
    assert model.channel_names == ["CT"] and model.num_input_channels == 1


def test_what_compares_plans_compares_old_ones_too():
    """Where merged folds must be of one model, and parties of a federation preprocessed alike."""
    plans = plans_for("Dataset911_A", "nnUNetPlans", "2d")
    old, other = (json.loads(json.dumps(plans)) for _ in range(2))
    old_ct(*WIDE)(old), old_ct(*NARROW)(other)
    wanted, found = plans["configurations"]["2d"], resolved(old, "2d", "plans.json")
    assert found["architecture"]["arch_kwargs"]["strides"] == wanted["architecture"]["arch_kwargs"]["strides"]
    assert _of_plans(old) != _of_plans(other) and _of_plans(old) == _of_plans(json.loads(json.dumps(old)))
    one, two = (_properties(resolved(p, "2d", ""), p, DATASET_JSON) for p in (old, other))
    assert {k for k in one if one[k] != two[k]} == {"foreground intensities"}
    named = {**DATASET_JSON, "modality": DATASET_JSON["channel_names"]}
    del named["channel_names"]
    assert _properties(resolved(old, "2d", ""), old, named) == one


@pytest.mark.slow
def test_old_parents_from_stitching_to_prediction(world2d, copy_world, nnunet_env, thread_pools, tmp_path,
                                                  stock_prediction):
    world = nnunet_env(copy_world(world2d))
    parties = world.host, world.partner
    for party in parties:
        for folder, plans in ((world.model(party), "plans.json"),
                              (world.preprocessed / party.dataset, f"{PLANS}.json")):
            for file, change in ((plans, first_version), ("dataset.json", old_names)):
                value = json.loads((folder / file).read_text())
                change(value)
                (folder / file).write_text(json.dumps(value))
    images = world.test_images(world.host)
    alone = {p: stock_prediction(world.model(p), images, tmp_path / p.name) for p in parties}
    result = stitch(world, **{**SHORT, "positions": [20]})
    by_stock = stock_prediction(result.model_folder, images, tmp_path / "stock")
    from nnunetv2_stitch.inference.predictor import StitchedPredictor
    predictor = StitchedPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    for mode, wanted in (("stitched", by_stock), ("host", alone[world.host]), ("partner", alone[world.partner])):
        with contextlib.redirect_stdout(io.StringIO()):
            predictor.initialize_from_trained_model_folder(result.model_folder, [0], mode=mode)
            predictor.predict_from_files_sequential(str(images), str(tmp_path / mode))
        found = read_segmentations(tmp_path / mode)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(v, wanted[k]) and v.any() for k, v in found.items()), mode
