"""Signatures travel in exports: measured by the sender, checked by the receiver, and left out where asked."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stitched_model
from exchange.conftest import (  # noqa: F401
    changed_zip,
    export,
    install,
    party_zip,
    refused,
    results,
    sender,
)
from exchange.zips import as_told, members, require_absent, write_zip
from gating.test_signature import HOSTILE

from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.exchange.install import install_party
from nnunetv2_stitch.gating.signature import LEVELS, Signature
from nnunetv2_stitch.parties.model_folder import read_model_folder

FEATURES, MEMBER = 12, "fold_0_signature.json"


def signature() -> dict:
    random = np.random.default_rng(0)
    return Signature.of(random.normal(size=(50, FEATURES)), random.normal(size=(9, FEATURES))).to_json()


@pytest.fixture
def with_signature(party_zip, tmp_path):  # noqa: F811
    def make(value) -> Path:
        contents = {**members(party_zip), MEMBER: json.dumps(value).encode()}
        return write_zip(tmp_path / "with.zip", as_told(contents))
    return make


def test_it_is_installed_as_it_was_sent_and_sent_on(with_signature, results, install, export, tmp_path):  # noqa: F811
    value = signature()
    said = install(with_signature(value), "-as", "SiteB")
    assert "left in the zip" not in said
    folder = next(results.glob("Dataset*_SiteB/*"))
    assert json.loads((folder / "fold_0" / "signature.json").read_text()) == value
    assert not (folder / "fold_1" / "signature.json").exists()
    assert "signature of each fold" in (folder / "MODEL_CARD.md").read_text()
    for flags, there in (([], True), (["--no_signature"], False)):
        said = export("-m", folder, "-o", tmp_path / "on.zip", *flags)
        assert (MEMBER in members(tmp_path / "on.zip")) == there
        assert ("fold 1: no signature, because" in said) == there
        assert ("fold_0/signature.json" in said) != there  # among what is left out
    for stock in (False, True):
        export("-m", folder, "-o", tmp_path / "on.zip", "-name", "Dataset123_C", *(["--stock"] if stock else []))
        again = install_party(str(tmp_path / "on.zip"), f"Again{stock}", str(results))
        assert json.loads(Path(again.path, "fold_0", "signature.json").read_text()) == value


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_signature_is_refused_and_nothing_is_left(kind, with_signature, refused):  # noqa: F811
    value = copy.deepcopy(signature())
    HOSTILE[kind](value)
    said = refused(with_signature(value))
    assert MEMBER in said


@pytest.mark.parametrize("member", [b"[" * 100_000, b"\xff", b" " * (9 << 20), json.dumps(signature()).encode() + b"x"])
def test_what_is_no_json_or_huge_is_refused(member, party_zip, refused, tmp_path):  # noqa: F811
    refused(write_zip(tmp_path / "bad.zip", as_told({**members(party_zip), MEMBER: member})))


def test_a_signature_that_was_changed_on_the_way_or_is_not_listed_counts_for_nothing(
        with_signature, party_zip, refused, install, results, tmp_path):  # noqa: F811
    contents = members(with_signature(signature()))
    other = {**contents, MEMBER: contents[MEMBER] + b" "}
    assert "another sha256" in refused(write_zip(tmp_path / "changed.zip", other))
    unlisted = {**members(party_zip), MEMBER: contents[MEMBER]}
    assert f"left in the zip: {MEMBER}" in install(write_zip(tmp_path / "unlisted.zip", unlisted), "-as", "SiteB")
    assert not list(results.glob("Dataset*/*/fold_0/signature.json"))


def hooked(predictor, data: str, names) -> np.ndarray:
    """Features of all tiles of cases, mirrored or not, as they pass while stock nnU-Net predicts."""
    import torch
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    from nnunetv2_stitch.gating.features import channel_statistics
    seen, dataset = [], infer_dataset_class(data)(data, names)
    first = next(m for m in predictor.network.modules() if isinstance(m, torch.nn.Conv2d))
    hook = first.register_forward_hook(lambda module, inputs, out: seen.append(channel_statistics(out).double().numpy())
                                       )
    for name in names:
        predictor.predict_sliding_window_return_logits(torch.from_numpy(dataset.load_case(name)[0][:]).float())
    hook.remove()
    return np.concatenate(seen)


@pytest.mark.slow
def test_the_sender_measures_its_own_images_under_each_fold(world2d, tmp_path):
    """By features taken with a hook from the first convolution of the trained network, while it predicts, mirrored."""
    import torch

    from nnunetv2_stitch.inference.stock_predictor import stock_predictor
    with stitched_model.environment(world2d.env):
        model, said = read_model_folder(str(world2d.model(world2d.partner))), []
        export_party(model, str(tmp_path / "b.zip"), name="SiteB", say=said.append)
        export_party(model, str(tmp_path / "without.zip"), name="SiteB", signature=False)
    assert said == ["fold 0", "fold 1"]
    sent, bare = members(tmp_path / "b.zip"), members(tmp_path / "without.zip")
    assert set(sent) - set(bare) == {"fold_0_signature.json", "fold_1_signature.json"}
    assert all(len(sent[f"fold_{f}_signature.json"]) < 10_000 for f in (0, 1))
    require_absent(tmp_path / "b.zip", ("tr_000", str(world2d.root), "PartnerBlobs"))
    folder = world2d.preprocessed / world2d.partner.dataset
    splits = json.loads((folder / "splits_final.json").read_text())
    data = str(folder / model.configuration_manager.data_identifier)
    for fold in (0, 1):
        with stitched_model.environment(world2d.env):
            predictor = stock_predictor(model, [fold], torch.device("cpu"))
        predictor.network.load_state_dict(predictor.list_of_parameters[0])
        wanted = Signature.of(*(hooked(predictor, data, sorted(splits[fold][part])) for part in ("train", "val")))
        found = Signature.from_json(json.loads(sent[f"fold_{fold}_signature.json"]), FEATURES, "sent")
        assert found.count == wanted.count == 5 * 4 and len(LEVELS) == len(found.quantiles)
        np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.covariance, wanted.covariance, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_without_the_preprocessed_images_it_says_so_and_goes_on(world2d, tmp_path):
    world = replace(world2d, root=Path(shutil.copytree(world2d.root, tmp_path / "world")))
    shutil.rmtree(world.preprocessed / world.partner.dataset)
    with stitched_model.environment(world.env):
        said = []
        export_party(read_model_folder(str(world.model(world.partner))), str(tmp_path / "b.zip"), folds=[0],
                     say=said.append)
    assert said[1].startswith("fold 0: no signature, because ") and said[1].endswith("does not exist")
    assert "fold_0_signature.json" not in members(tmp_path / "b.zip")
