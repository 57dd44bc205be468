"""--dry_run: what it prints, what it looks for, and that nothing is left behind."""

import math
import re
import shutil
from functools import partial
from pathlib import Path

import partner_site
import pytest
import torch
from model_folders import centre, make_model, results  # noqa: F401 -- fixtures
from stitched_model import FOLDER, tree

from nnunetv2_stitch.entrypoints import adapt_party, train_party, train_stitch
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.training.adapt_job import AdaptRequest
from nnunetv2_stitch.training.adapt_job import prepare as prepare_adapt
from nnunetv2_stitch.training.from_merged import FromMergedRequest
from nnunetv2_stitch.training.from_merged import prepare as prepare_party
from nnunetv2_stitch.training.memory import network_of, training_need

command = partial(partner_site.command, train_stitch)
command_of = partner_site.command


@pytest.fixture
def world(world2d, copy_world, nnunet_env):
    return nnunet_env(copy_world(world2d))


def refused(world, capsys, *arguments, module=train_stitch) -> str:
    return partner_site.refused(world.root, capsys, module, *arguments)


@pytest.mark.slow
def test_what_a_training_would_stop_on_is_said_before_it_and_by_a_dry_run_after_its_report(world, capsys):
    """What nnU-Net's trainer reads at its beginning and at its end, hours later, is looked for first."""
    folder = world.preprocessed / world.host.dataset
    missing = [folder / "dataset_fingerprint.json", folder / "gt_segmentations",
               folder / "nnUNetPlans_2d" / "tr_000.b2nd"]
    aside = world.root / "aside"
    for path, dry in zip(missing, (True, False, False)):
        path.rename(aside)
        flags = ("--dry_run",) if dry else ()
        err = refused(world, capsys, 801, 802, "-positions", "2,20", *flags)
        assert path.name.split(".")[0] in err and "run nnUNetv2_" in err
        aside.rename(path)
    (world.results / world.host.dataset / f"{FOLDER}__2d" / "fold_0").mkdir(parents=True)
    assert "already holds fold 0; add --c" in refused(world, capsys, 801, 802, "-positions", "2,20", "--dry_run")
    command(801, 802, "-positions", "2,20", "--dry_run", "--c")
    assert "Nothing was written" in capsys.readouterr().out
    assert "-num_gpus 2" in refused(world, capsys, 801, 802, "-positions", "2,20", "--dry_run", "--c", "-num_gpus", 2)


@pytest.mark.slow
def test_dry_run_prints_the_matches_and_writes_nothing(world, capsys):
    before = tree(world.root)
    command(801, 802, "--dry_run")
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("host     Dataset801_HostBlobs nnUNetTrainerTiny__nnUNetPlans__2d, folds 0, 1: ")
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert [int(r[0]) for r in rows] == list(range(len(rows))) and len(rows) > 40
    assert rows[0][-1] == "encoder.stages.0.0.convs.0.conv"
    assert "8 / 6" in lines[[line.strip()[:2] for line in lines].index("0 ")]
    assert "parameters" in out and "Nothing was written" in out
    needs = {line.split("   ")[0]: float(line.split()[-4]) for line in lines if line.startswith("training, ")}
    asked, auto, blocks = needs.values()
    assert list(needs)[1:] == ["training, -checkpoint_segments auto",
                               "training, -checkpoint_segments auto -positions blocks"]
    assert asked >= auto >= blocks > 0
    assert any(f"of {3 + 3 * len(rows)} answers at once" in line for line in lines)
    network = torch.load(world.model(world.host) / "fold_0/checkpoint_final.pth", weights_only=False)
    unique = {t.data_ptr(): t.numel() for k, t in network["network_weights"].items()}
    auxiliary = {t.data_ptr() for k, t in network["network_weights"].items() if "seg_layers" in k and ".2." not in k}
    assert f"{sum(n for p, n in unique.items() if p not in auxiliary):,} parameters" in lines[0]
    assert tree(world.root) == before


@pytest.mark.slow
def test_dry_run_of_a_zip_leaves_no_trace(world, tmp_path, capsys, monkeypatch):
    sent = export_party(read_model_folder(str(world.model(world.partner))), str(tmp_path / "b.zip")).path
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = sorted(tmp_path.rglob("*")), tree(tmp_path)
    command(801, "-m_b", sent, "--dry_run", "-positions", 20)
    assert "Nothing was written" in capsys.readouterr().out
    told = refused(world, capsys, 801, "-m_b", sent, "--dry_run", "-f_b", 7)
    assert "of fold 7" in told and str(tmp_path) not in told, "a folder that is gone is named"
    assert (sorted(tmp_path.rglob("*")), tree(tmp_path)) == before


@pytest.mark.slow
@pytest.mark.parametrize("module", (adapt_party, train_party))
def test_dry_run_of_the_training_of_one_network(module, world, tmp_path, capsys, monkeypatch):
    """It says what is trained, from what, for how long, where that goes and what memory it takes; it stops on what a
    run would stop on; and nothing is left behind, of a zip neither."""
    model = world.model(world.partner if module is adapt_party else world.host)
    sent = export_party(read_model_folder(str(model)), str(tmp_path / "b.zip")).path
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    which = {adapt_party: (801, "-m_b", sent), train_party: ("-d", 801, "-m", sent)}[module]
    before = [(sorted(folder.rglob("*")), tree(folder)) for folder in (world.root, tmp_path)]
    command_of(module, *which, "--dry_run", "-f", 1, "-epochs", 20, "-lr", 1e-4)
    out = capsys.readouterr().out
    network = torch.load(model / "fold_0/checkpoint_final.pth", weights_only=False)["network_weights"]
    assert f"folds 1: {sum({t.data_ptr(): t.numel() for t in network.values()}.values()):,} parameters" in out
    assert "20 epochs of 250 (nnU-Net) iterations, learning rate 0.0001, seed 12345" in out
    plans = module.build_parser().get_default("o_p")
    assert str(world.preprocessed / world.host.dataset / f"{plans}.json") in out
    assert re.search(r"\ntraining +\d\.\d\d GiB +\d\.\d\d GiB\n", out) and "Nothing was written (--dry_run)." in out
    assert [(sorted(folder.rglob("*")), tree(folder)) for folder in (world.root, tmp_path)] == before
    assert "holds other plans" in refused(world, capsys, *which, "--dry_run", "-o_p", "nnUNetPlans", module=module)


@pytest.mark.parametrize("kept", (True, False))
@pytest.mark.parametrize("module", (adapt_party, train_party))
def test_a_dry_run_knows_the_zip_that_a_run_began_with(module, kept, make_model, centre, tmp_path, capsys):  # noqa: F811
    """The kind: a dry run refuses what the run takes, because it unpacks elsewhere. Both know a zip by its sha256,
    whether or not what a run unpacked is still there."""
    (centre / "dataset_fingerprint.json").write_text("{}")
    sent = export_party(read_model_folder(str(make_model("Dataset911_B", folds=(0, 1)))), str(tmp_path / "b.zip")).path
    prepared = prepare_adapt(AdaptRequest(1, Partner(model=sent), folds=[1])) if module is adapt_party else \
        prepare_party(FromMergedRequest(sent, 1, folds=[1]))
    write_json(prepared.plans_file, prepared.plans)
    Path(prepared.fold_folder(1)).mkdir(parents=True)
    if not kept:
        shutil.rmtree(tmp_path / "results" / "stitch_parties")
    before = tree(tmp_path)
    which = {adapt_party: (1, "-m_b", sent), train_party: ("-d", 1, "-m", sent)}[module]
    for flags in (["-f", 0], ["-f", 1, "--c"]):
        command_of(module, *which, *flags, "--dry_run")
        assert "Nothing was written (--dry_run)." in capsys.readouterr().out
    assert tree(tmp_path) == before
    other = export_party(read_model_folder(str(make_model("Dataset912_B", folds=(0,)))), str(tmp_path / "c.zip")).path
    which = [other if word == sent else word for word in which]
    told = partner_site.refused(tmp_path, capsys, module, *which, "-f", 0, "--dry_run")
    assert "was begun with -m" in told and "stitch_parties" in told


def test_memory_of_a_training_is_weights_gradients_momentum_and_what_is_kept_of_a_batch(make_model):  # noqa: F811
    """Twice the batch takes as much more as the maps of one take, and mixed precision less once maps prevail."""
    plans = read_model_folder(str(make_model("Dataset911_A"))).plans["configurations"]["2d"]
    parameters = sum(p.numel() for p in network_of(plans, 1, 3).parameters())
    small, twice, big = (training_need({**plans, "batch_size": b}, 1, 3) for b in (2, 4, 64))
    maps = small.full - 12 * parameters
    first = 2 * plans["architecture"]["arch_kwargs"]["features_per_stage"][0] * 4 * math.prod(plans["patch_size"])
    assert maps > first and abs(twice.full - small.full - maps) < 0.1 * maps
    assert 0.5 * big.full < big.mixed < big.full
