"""nnUNetv2_distill_stitched: bad input is one line on stderr, exit code 2, and nothing written."""

import shutil

import pytest
from distill_steps import teacher_of
from partner_site import command, edit, refused
from stitched_model import tree

from nnunetv2_stitch.entrypoints import distill_stitched


@pytest.fixture
def world(stitched2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(stitched2d.world))


@pytest.fixture
def bad(world, capsys):
    """`bad(*flags)` with sensible -m and -d unless they are given."""
    def refuse(*flags):
        flags = list(flags)
        for flag, value in (("-m", teacher_of(world)), ("-d", world.host.dataset_id)):
            if flag not in flags:
                flags += [flag, value]
        return refused(world.root, capsys, distill_stitched, *flags)
    return refuse


def test_models_and_folds_that_are_not_there(bad, world):
    assert "nowhere does not exist" in bad("-m", world.root / "nowhere")
    host = world.model(world.host)
    assert f"{host} is no stitched model but a plain network" in (said := bad("-m", host))
    assert all(f"{name} " in said for name in (
        "nnUNetv2_train_stitch", f"nnUNetv2_train_party -m {host}", "nnU-Net's own nnUNetv2_train"))
    edit(host / "plans.json", lambda plans: plans.update(adapted_from_partner=True))
    assert "is no stitched model but an adapted partner" in bad("-m", host)
    assert "plans.json is a file; give a model folder" in bad("-m", host / "plans.json")
    assert "of fold 4; it has folds 0, 1" in bad("-f", 4)
    assert "dataset 999 in nnUNet_preprocessed" in bad("-d", 999)
    path = teacher_of(world) / "fold_1" / "checkpoint_final.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    assert f"{path} is cut short" in bad()
    path.write_bytes(whole)
    host = world.model(world.host) / "fold_0" / "checkpoint_final.pth"
    host.rename(host.with_name("elsewhere.pth"))
    assert "use -start scratch" in bad("-f", 0)


@pytest.mark.slow
def test_images_without_labels_that_do_not_fit(bad, world, tmp_path):
    images = shutil.copytree(world.test_images(world.partner), tmp_path / "images")
    assert "input folder" in bad("-unlabelled", tmp_path / "nowhere")
    shutil.copy(images / "ts_001_0000.nii.gz", images / "ts_001_0001.nii.gz")
    assert "case ts_001" in (err := bad("-unlabelled", images)) and "the model needs 1" in err
    (images / "ts_001_0001.nii.gz").unlink()
    assert "needs a teacher" in bad("-unlabelled", images, "-weight", 0)
    (images / "ts_001_0000.nii.gz").write_bytes(b"no image")
    assert "ts_001_0000.nii.gz cannot be read" in bad("-unlabelled", images)


def test_plans_and_names(bad, world):
    assert "double underscore" in bad("-o_p", "My__Plans")
    assert "-o_p '../x': give a name of letters" in bad("-o_p", "../x")
    assert "holds other plans" in bad("-o_p", "nnUNetPlans")
    assert "holds other plans" in bad("-o_p", "nnUNetStitchPlans")
    assert "is of configuration 2d" in bad("-c", "3d_fullres")
    assert "MyPlans.json does not exist" in bad("-student", "MyPlans")
    assert "labels of" in bad("-d", _with_other_labels(world))


def _with_other_labels(world):
    path = world.preprocessed / world.partner.dataset / "dataset.json"
    path.write_text(path.read_text().replace('"a"', '"kidney"'))
    return world.partner.dataset


def test_weights_that_are_none(capsys):
    for value in ("-1", "nan", "much"):
        with pytest.raises(SystemExit) as caught:
            distill_stitched.build_parser().parse_args(["-m", "X", "-d", "1", "-weight", value])
        assert caught.value.code == 2 and "at least 0" in capsys.readouterr().err


def test_dry_run_writes_nothing(world, capsys):
    before = tree(world.root), sorted(world.root.rglob("*"))
    command(distill_stitched, "-m", teacher_of(world), "-d", world.host.dataset_id, "--dry_run", "-epochs", 20,
            "-unlabelled", world.test_images(world.partner))
    out = capsys.readouterr().out
    assert "20 epochs of 250 (nnU-Net) iterations, seed 12345" in out and "Nothing was written (--dry_run)." in out
    assert out.startswith(f"teacher   {world.host.dataset} nnUNetTrainerStitch__nnUNetStitchPlans__2d, folds 0, 1\n")
    assert "nnUNetDistilledPlans_2d_unlabelled" in out and (tree(world.root), sorted(world.root.rglob("*"))) == before


@pytest.mark.slow
def test_it_ends_with_the_command_that_predicts(world, capsys):
    command(distill_stitched, "-m", teacher_of(world), "-d", world.host.dataset_id, "-f", 0, "-epochs", 1,
            "-iterations", 2, "-student", "nnUNetPlans", "-o_p", "MyPlans")
    printed = capsys.readouterr().out
    assert "nnUNetv2_predict -i" in printed and "-tr nnUNetTrainerStitchDistilled -p MyPlans -f 0" in printed
    assert "started from host" in printed and "mean validation Dice" in printed
