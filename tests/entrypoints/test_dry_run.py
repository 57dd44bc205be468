"""nnUNetv2_train_stitch --dry_run: what it prints, what it looks for, and that nothing is left behind."""

from functools import partial

import partner_site
import pytest
import torch
from stitched_model import FOLDER, tree

from nnunetv2_stitch.entrypoints import train_stitch
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.parties.model_folder import read_model_folder

command = partial(partner_site.command, train_stitch)


@pytest.fixture
def world(world2d, copy_world, nnunet_env):
    return nnunet_env(copy_world(world2d))


def refused(world, capsys, *arguments) -> str:
    return partner_site.refused(world.root, capsys, train_stitch, *arguments)


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
    assert (sorted(tmp_path.rglob("*")), tree(tmp_path)) == before
