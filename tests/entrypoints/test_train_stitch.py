"""nnUNetv2_train_stitch: arguments and bad input: one line on stderr, exit code 2, nothing written."""

import json
import os
import pickle
import shutil
import tempfile
from functools import partial
from pathlib import Path

import partner_site
import pytest
from partner_site import edit
from stitched_model import FOLDER, as_nobody
from world import World

from nnunetv2_stitch.entrypoints import train_stitch
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.parties.preprocessed import folds_without_foreground
from nnunetv2_stitch.pipeline import Request, prepare
from nnunetv2_stitch.pipeline.continuing import foreground_remarks

command = partial(partner_site.command, train_stitch)


@pytest.fixture
def world(world2d, copy_world, nnunet_env):
    return nnunet_env(copy_world(world2d))


def refused(world, capsys, *arguments) -> str:
    return partner_site.refused(world.root, capsys, train_stitch, *arguments)


def change_plans(world, party, change):
    """Change the configuration in the plans of a party's model folder."""
    edit(world.model(party) / "plans.json", lambda p: change(p["configurations"][world.configuration]))


def test_unknown_dataset(world, capsys):
    err = refused(world, capsys, 999, world.partner.dataset_id)
    assert "999" in err and world.host.dataset in err
    assert "Dataset802_Typo" in refused(world, capsys, world.host.dataset_id, "Dataset802_Typo")


def test_no_trained_model(world, capsys):
    shutil.rmtree(world.model(world.partner))
    assert world.partner.dataset in refused(world, capsys, world.host.dataset_id, world.partner.dataset_id)


def test_fold_that_is_not_trained(world, capsys):
    for flags in (("-f", 0, 4), ("-f", 0, "-f_b", 4)):
        err = refused(world, capsys, 801, 802, *flags)
        assert "fold 4" in err and "0, 1" in err


def test_checkpoint_that_is_not_there(world, capsys):
    assert "checkpoint_typo.pth" in refused(world, capsys, 801, 802, "-chk", "checkpoint_typo.pth")


def test_unfinished_training(world, capsys):
    for path in world.model(world.partner).rglob("checkpoint_final.pth"):
        path.unlink()
    err = refused(world, capsys, 801, 802)
    assert world.partner.dataset in err and "checkpoint_final.pth" in err


def rename_configuration(world, party, new, **changes):
    old = world.model(party)

    def rename(plans):
        plans["configurations"][new] = {**plans["configurations"].pop(world.configuration), **changes}
    edit(old / "plans.json", rename)
    old.rename(old.with_name(old.name.replace(f"__{world.configuration}", f"__{new}")))


def test_configurations_differ(world, capsys):
    rename_configuration(world, world.partner, "3d_lowres")
    err = refused(world, capsys, 801, 802)
    assert "2d with 3d_lowres" in err and world.host.dataset in err and world.partner.dataset in err


@pytest.mark.slow
def test_2d_with_3d(world, world3d, capsys):
    shutil.copytree(world3d.results / world3d.partner.dataset, world.results / world3d.partner.dataset)
    assert "2d with 3d_fullres" in refused(world, capsys, 801, 804)


def test_cascade(world, capsys):
    for party in (world.host, world.partner):
        rename_configuration(world, party, "3d_cascade_fullres", previous_stage="3d_lowres")
    err = refused(world, capsys, 801, 802)
    assert "cascade" in err and "3d_cascade_fullres" in err


def test_several_models_to_choose_from(world, capsys):
    for party in (world.host, world.partner):
        model = world.model(party)
        shutil.copytree(model, model.with_name(model.name.replace("nnUNetPlans", "nnUNetResEncUNetLPlans")))
    err = refused(world, capsys, 801, 802)
    assert "nnUNetPlans" in err and "nnUNetResEncUNetLPlans" in err and "-p_a" in err


def test_other_number_of_channels(world, capsys):
    edit(world.model(world.partner) / "dataset.json", lambda d: d["channel_names"].update({"1": "T2"}))
    change_plans(world, world.partner, lambda c: c.update(normalization_schemes=["ZScoreNormalization"] * 2))
    assert "channels: host MRI, partner MRI, T2 (the host has no channel T2" in refused(world, capsys, 801, 802)


def test_no_label_in_common(world, capsys):
    edit(world.model(world.partner) / "dataset.json", lambda d: d.update(labels={"background": 0, "c": 1, "d": 2}))
    err = refused(world, capsys, 801, 802)
    assert "labels: host background, a, b, partner background, c, d" in err and "-label_map" in err


def test_everything_that_blocks_is_named(world, capsys):
    change_plans(world, world.partner, lambda c: c.update(preprocessor_name="Mine", normalization_schemes=["Mine"]))
    err = refused(world, capsys, 801, 802)
    assert "normalisation of MRI: host ZScore, partner Mine" in err
    assert "preprocessor: host DefaultPreprocessor, partner Mine" in err and "nnUNetv2_stitch_info" in err


@pytest.mark.slow
def test_what_differs_is_said_before_anything_runs(world, capsys):
    change_plans(world, world.partner, lambda c: c.update(spacing=[0.5, 0.7]))
    command(801, 802, "--dry_run")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("spacing")]
    assert "0.5 x 0.7 mm" in lines[0] and "approximate" in lines[0]


def test_truncated_checkpoint_of_either(world, capsys):
    for party in (world.host, world.partner):
        path = world.model(party) / "fold_1" / "checkpoint_final.pth"
        whole = path.read_bytes()
        path.write_bytes(whole[:len(whole) // 2])
        err = refused(world, capsys, 801, 802)
        assert str(path) in err and "cut short" in err
        path.write_bytes(whole)


def test_weights_of_another_network(world, capsys):
    shutil.copy(world.model(world.host) / "fold_1" / "checkpoint_final.pth", world.model(world.partner) / "fold_1")
    err = refused(world, capsys, 801, 802)
    assert f"{world.model(world.partner)}/fold_1/checkpoint_final.pth" in err


def test_network_class_that_cannot_be_traced_or_may_not_be_built(world, capsys):
    change_plans(world, world.partner, lambda c: c["architecture"].update(network_class_name="os.system"))
    assert "os.system" in refused(world, capsys, 801, 802)
    name = "dynamic_network_architectures.architectures.primus.PrimusS"
    change_plans(world, world.partner, lambda c: c["architecture"].update(network_class_name=name))
    assert name in refused(world, capsys, 801, 802)


def test_damaged_plans(world, capsys):
    path = world.model(world.partner) / "plans.json"
    path.write_text(path.read_text()[:100])
    assert str(path) in refused(world, capsys, 801, 802)


def test_host_data_that_are_not_preprocessed(world, capsys):
    shutil.rmtree(world.preprocessed / world.host.dataset / "nnUNetPlans_2d")
    err = refused(world, capsys, 801, 802)
    assert "nnUNetPlans_2d" in err and "nnUNetv2_preprocess" in err


def test_environment_variables_that_are_not_set(world, capsys, monkeypatch):
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        with monkeypatch.context() as patch:
            patch.delenv(name)
            assert name in refused(world, capsys, 801, 802)


@pytest.mark.parametrize(("flags", "named"), [
    (("-positions", "3,900"), "no position 900"),
    (("-position", "900"), "-position 900"),
    (("-position", "3", "-positions", "4,5,9"), "-position 3: choose one of the positions with stitches, 4-5,9;"),
    (("-rule", "3"), "-position K"),
    (("-rule", "1", "-position", "3"), "-position"),
    (("-rule", "loo", "-f", "0"), "at least two folds"),
    (("-gate", "on", "-output", "host"), "leave out -output host"),
    *((("-o_p", name), "-o_p " + repr(name)) for name in ("My__Plans", "../Plans", "a/b", "a\\b", ".hidden", "", "a_",
                                                         "_a", "a b")),
    (("--c", "--val"), "--val"),
    (("-c", "3d_fullres"), "3d_fullres"),
    (("-tr_b", "nnUNetTrainerTypo"), "nnUNetTrainerTypo"),
    (("--val",), "not trained"),
])
def test_flags_that_do_not_fit(world, capsys, flags, named):
    assert named in refused(world, capsys, 801, 802, *flags)


@pytest.mark.parametrize("flags", [("-f", "x"), ("-positions", "a-b"), ("-position", "1.5"), ("-epochs", "0"),
                                   ("-rule", "4"), ("-fit", "magic")])
def test_flags_that_cannot_be_read(world, capsys, flags):
    with pytest.raises(SystemExit) as caught:
        command(801, 802, *flags)
    assert caught.value.code == 2 and flags[0] in capsys.readouterr().err


def test_a_model_is_not_stitched_to_itself(world, capsys):
    for arguments in ((801, 801), (801, 802, 802), (801, "-m_b", world.model(world.host))):
        assert "two parties are one model, " in refused(world, capsys, *arguments)
    prepare(Request(801, 801, folds=[0], fold_b=1))  # which was trained on other cases


@pytest.mark.slow
def test_validation_cases_without_foreground_are_found_before_training(world, capsys):
    """The kind: what is only found at the end of a training and can be read from the preprocessed data is said before
    it; `class_locations` are nnU-Net's own."""
    folder = world.preprocessed / world.host.dataset
    splits = json.loads((folder / "splits_final.json").read_text())

    def blank(fold):
        for case in splits[fold]["val"]:
            path = folder / "nnUNetPlans_2d" / f"{case}.pkl"
            properties = pickle.loads(path.read_bytes())
            assert any(map(len, properties["class_locations"].values()))
            properties["class_locations"] = {k: [] for k in properties["class_locations"]} | {(-1, 0, 1, 2): [[0] * 4]}
            path.write_bytes(pickle.dumps(properties))

    def remarks(**given):
        return foreground_remarks(prepare(Request(801, 802, **given)))

    assert remarks() == []
    blank(0)
    assert [line[:52] for line in remarks()] == ["WARNING: the validation cases of fold 0 hold no fore"]
    assert remarks(folds=[1]) == []
    assert folds_without_foreground(str(folder), "nnUNetPlans_2d", [0, 1, "all"]) == [0]
    assert "fold 0 hold no foreground label in their references" in refused(world, capsys, 801, 802, "-f", "0")
    assert len(remarks(folds=[0], rule="3", position=3)) == 1
    assert "fold 0 hold no" in refused(world, capsys, 801, 802, "-rule", "guided")
    blank(1)
    assert "fold 0, 1 hold no foreground label" in refused(world, capsys, 801, 802)
    assert "fold 0, 1 hold no foreground label" in refused(world, capsys, 801, 802, "--dry_run")


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs Linux")
def test_no_write_permission(world2d, nnunet_env, capsys):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o755)
        world = nnunet_env(World(Path(shutil.copytree(world2d.root, Path(folder) / "world")), 2))
        refused_folder = world.preprocessed / world.host.dataset
        for closed in (refused_folder, world.results / world.host.dataset):
            os.chmod(closed, 0o555)
            with as_nobody():
                err = refused(world, capsys, 801, 802)
            os.chmod(closed, 0o777)
            assert f"no permission to write into {closed}" in err
        sent = export_party(read_model_folder(str(world.model(world.partner))), str(Path(folder, "b.zip"))).path
        os.chmod(sent, 0o644)
        os.chmod(world.results, 0o555)
        with as_nobody():
            err = refused(world, capsys, 801, "-m_b", sent)
        assert f"has to be unpacked, and there is no permission to write into {world.results}; change" in err
        os.chmod(world.results, 0o777)


@pytest.mark.slow
def test_the_command_ends_with_a_table_and_the_commands_that_predict(world, capsys, thread_pools):
    command(801, 802, "-fit", "direct", "-f", 0, "-positions", "2,20-21", "-iterations", 2, "-device", "cpu",
            "--disable_progress_bar")
    out = capsys.readouterr().out
    after = out[out.index("Mean Dice on A's validation cases"):]
    header = next(line for line in after.splitlines() if "plain ensemble" in line)
    assert [header.index(n) for n in ("fold", "A ", "plain ensemble", "rule 1", "rule 2")] == sorted(
        header.index(n) for n in ("fold", "A ", "plain ensemble", "rule 1", "rule 2"))
    folder = FOLDER.replace("Stitch__", "StitchDirect__") + "__2d"
    position = json.loads((world.results / world.host.dataset / folder / "stitch_selection.json")
                          .read_text())["positions"]["0"][0]
    assert position in (2, 20, 21) and f"Chosen position: {position}, " in after
    flags = ("-i INPUT_FOLDER -o OUTPUT_FOLDER -d Dataset801_HostBlobs -c 2d -tr nnUNetTrainerStitchDirect "
             "-p nnUNetStitchPlans -f 0")
    assert f"  nnUNetv2_predict_stitched {flags}\n" in after and f"  nnUNetv2_predict {flags} -device cpu\n" in after
    assert "is worse than A alone" in after  # the partner's images differ, so the ensemble must lose here


def test_c_is_the_configuration_and_two_dashes_continue():
    parse = train_stitch.build_parser().parse_args
    for flags, wanted in ((["-c", "2d"], ("2d", False)), (["--c"], (None, True)), (["--c", "-c", "2d"], ("2d", True))):
        args = parse(["801", "802", *flags])
        assert (args.configuration, args.continue_training) == wanted
        assert train_stitch.request_of(args)["configuration"] == wanted[0]
