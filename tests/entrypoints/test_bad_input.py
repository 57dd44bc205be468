"""Bad input to the training command: one line on stderr, exit code 2, nothing written."""

import json
import shutil
import sys

import pytest
import torch
from stitched_model import tree

from nnunetv2_stitch.entrypoints.train_stitch import train_stitch_entry


@pytest.fixture
def world(world2d, copy_world, nnunet_env):
    return nnunet_env(copy_world(world2d))


@pytest.fixture
def refused(world, monkeypatch, capfd):
    """`refused(*arguments)`: run the command, check how it fails, return the line."""
    def run(*arguments):
        before = tree(world.root)
        monkeypatch.setattr(sys, "argv", ["nnUNetv2_train_stitch", "-device", "cpu", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            train_stitch_entry()
        lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
        assert stop.value.code == 2, lines
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert tree(world.root) == before
        return lines[0]
    return run


def edit(path, change):
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


def ids(world):
    return world.host.dataset_id, world.partner.dataset_id


def partner_plans(world):
    return world.model(world.partner) / "plans.json"


def partner_dataset(world):
    return world.model(world.partner) / "dataset.json"


def set_configuration(**values):
    return lambda plans: plans["configurations"]["2d"].update(values)


def test_unknown_dataset(world, refused):
    assert "777" in refused(world.host.dataset_id, 777)


def test_no_trained_model(world, refused):
    shutil.rmtree(world.model(world.partner))
    assert "no trained model" in refused(*ids(world))


def test_fold_not_trained(world, refused):
    line = refused(*ids(world), "-f", 4)
    assert "fold" in line and "4" in line and "0" in line
    assert "fold" in refused(*ids(world), "-f_b", 3)


def rename_configuration(world, name):
    """The partner's model as if it were of another configuration."""
    folder = world.model(world.partner)
    edit(folder / "plans.json", lambda p: p["configurations"].update({name: p["configurations"].pop("2d")}))
    return folder.rename(folder.parent / folder.name.replace("__2d", f"__{name}"))


def test_other_configurations(world, refused):
    rename_configuration(world, "3d_fullres")
    line = refused(*ids(world))
    assert "2d" in line and "3d_fullres" in line


def test_2d_with_3d_under_one_configuration_name(world, refused):
    edit(partner_plans(world), set_configuration(patch_size=[16, 64, 64], spacing=[1.0, 1.0, 1.0]))
    line = refused(*ids(world))
    assert "2d" in line and "3d" in line or "spacing" in line


def test_cascade(world, refused):
    edit(partner_plans(world), set_configuration(previous_stage="3d_lowres"))
    assert "cascade" in refused(*ids(world))


@pytest.mark.parametrize(("file", "change", "words"), [
    (partner_dataset, lambda d: d.update(channel_names={"0": "T1", "1": "T2"}), ["channel"]),
    (partner_dataset, lambda d: d["labels"].update(extra=3), ["label", "extra"]),
    (partner_plans, set_configuration(spacing=[0.7, 0.7]), ["spacing", "0.7"]),
    (partner_plans, set_configuration(normalization_schemes=["CTNormalization"]), ["CTNormalization"]),
], ids=["channels", "labels", "spacing", "normalisation"])
def test_differing_keys_are_named(world, refused, file, change, words):
    edit(file(world), change)
    line = refused(*ids(world))
    assert all(word in line for word in words), line


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_truncated_checkpoint(world, refused, size):
    path = world.model(world.partner) / "fold_1" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:size])
    assert str(path) in refused(*ids(world))


def test_network_class_that_is_not_allowed(world, refused):
    edit(partner_plans(world), lambda p: p["configurations"]["2d"]["architecture"].update(
        network_class_name="os.system"))
    assert "os.system" in refused(*ids(world))


def test_network_class_that_cannot_be_traced(world, refused):
    name = "dynamic_network_architectures.architectures.primus.PrimusS"
    edit(partner_plans(world), lambda p: p["configurations"]["2d"]["architecture"].update(network_class_name=name))
    assert "Primus" in refused(*ids(world))


def test_weights_that_do_not_fit(world, refused):
    path = world.model(world.partner) / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["network_weights"] = {k: v[..., :1] if v.ndim == 4 else v
                                     for k, v in checkpoint["network_weights"].items()}
    torch.save(checkpoint, path)
    assert str(path) in refused(*ids(world))


def test_preprocessed_data_missing(world, refused):
    (world.root / "preprocessed").rename(world.root / "elsewhere")
    (world.root / "preprocessed").mkdir()
    assert "preprocess" in refused(*ids(world))


def test_plans_name_that_is_taken_or_malformed(world, refused):
    assert "double underscore" in refused(*ids(world), "-o_p", "a__b")
    assert "nnUNetPlans" in refused(*ids(world), "-o_p", "nnUNetPlans")


def test_positions_and_rules(world, refused):
    assert "999" in refused(*ids(world), "-position", 999)
    assert "999" in refused(*ids(world), "-positions", "3,999")
    assert "-position" in refused(*ids(world), "-rule", 3)
    assert "rule 3" in refused(*ids(world), "-rule", 2, "-position", 3)
    assert "two folds" in refused(*ids(world), "-rule", "loo", "-f", 0)
    assert "exclude" in refused(*ids(world), "--c", "--val")


def test_validation_before_training(world, refused):
    assert "not trained" in refused(*ids(world), "--val")


def test_unset_variables(world, refused, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    assert "nnUNet_preprocessed" in refused(*ids(world))


def test_dry_run_prints_matches_and_writes_nothing(world, monkeypatch, capfd):
    before = tree(world.root)
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train_stitch", *map(str, ids(world)), "--dry_run"])
    train_stitch_entry()
    out = capfd.readouterr().out
    assert tree(world.root) == before
    assert "parameters" in out and "GiB" in out and "encoder.stages.0.0.convs.0.conv" in out
