"""Kind: where the package chooses along a path by own cases, retention can choose from the scores of single cases."""

import json
import zipfile

import numpy as np
import pytest
import stitched_model
from nnunetv2.model_sharing.model_export import export_pretrained_model
from partner_site import command, refused
from stitched_model import stitch

from nnunetv2_stitch.entrypoints import train_stitch
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.selection.case_scores import CASES_FILE, CaseScores, choose_by_retention
from nnunetv2_stitch.selection.retention import retained
from nnunetv2_stitch.selection.sweep import Sweep

NAN = float("nan")


def scores(ensemble, host, parties=None):
    positions = list(range(10, 10 + len(ensemble)))
    return CaseScores(positions, parties or ["partner"] * len(positions), ensemble, host)


def test_the_cases_of_all_folds_decide_together_and_each_partner_alone():
    one = scores([[.5, .7], [.8, .8], [.8, .9]], [.1, .1])
    other = scores([[.9, NAN], [.6, .8], [.8, .8]], [.1, .1])
    pooled = retained(np.array([[.5, .7, .9, NAN], [.8, .8, .6, .8], [.8, .9, .8, .8]]), np.full(4, .1))
    (position, found), = choose_by_retention([one, other]).items()
    assert (position, found.index) == (10 + pooled.index, pooled.index)
    two = scores([[.5, .5], [.9, .9], [.2, .2], [.1, .1]], [.1, .1], ["partner", "partner", "partner2", "partner2"])
    assert list(choose_by_retention([two])) == [11, 12]


def test_where_no_position_reaches_the_host_alone_the_best_is_taken_and_it_is_said():
    (position, found), = choose_by_retention([scores([[.3, .3], [.5, .5], [.4, .4]], [.9, .9])]).items()
    assert position == 11 and not found.reached and "host alone is better" in found.reason


def test_folds_of_other_positions_are_refused():
    with pytest.raises(StitchError, match="cover different positions"):
        choose_by_retention([scores([[.5], [.6]], [.5]), scores([[.5]], [.5])])


def test_the_sweep_keeps_what_its_means_are_of_and_names_no_case(stitched2d):
    for fold in (0, 1):
        folder = stitched2d.folder / f"fold_{fold}"
        sweep = Sweep.from_json(json.loads((folder / "sweep.json").read_text()))
        kept = CaseScores.read(str(folder))
        assert kept.positions == sweep.positions and np.shape(kept.ensemble) == (len(sweep.positions), sweep.cases)
        # Every case of this world has both labels, so the mean over cases is that over labels.
        np.testing.assert_allclose(np.mean(kept.ensemble, 1), sweep.ensemble, atol=1e-9)
        assert np.mean(kept.host) == pytest.approx(sweep.baselines["host"], abs=1e-9)
        assert "tr_0" not in (folder / CASES_FILE).read_text()


@pytest.mark.slow
def test_rule_retain_on_a_trained_model(stitched2d, copy_world, nnunet_env, thread_pools, monkeypatch, capsys):
    world = nnunet_env(copy_world(stitched2d.world))
    monkeypatch.chdir(world.root)
    folder = world.results / world.host.dataset / f"{stitched_model.FOLDER}__2d"
    select = ["801", "802", "--select", "-rule", "retain"]
    kept = [CaseScores.read(str(folder / f"fold_{f}")) for f in (0, 1)]
    (position, found), = choose_by_retention(kept, 1e9).items()
    command(train_stitch, *select, "-tolerance", 1e9)
    told = capsys.readouterr().out
    selection = read_json(str(folder / "stitch_selection.json"))
    assert selection["rule"] == "retain" and selection["positions"] == {"0": [position], "1": [position]}
    assert found.reason in told and any(found.reason in line for line in selection["remarks"])
    assert position == kept[0].positions[0] and position not in choose_by_retention(kept, 0)
    assert "-tolerance is for -rule retain" in refused(world.root, capsys, train_stitch, "801", "802", "-tolerance", 1)
    assert "number of standard errors" in str(pytest.raises(StitchError, stitch, world, tolerance=-1.).value)
    (folder / "fold_1" / CASES_FILE).unlink()  # of a model that was trained before such scores were kept
    assert "delete sweep.json of this fold and train with --c" in refused(world.root, capsys, train_stitch, *select)
    write_json(str(folder / "fold_1" / CASES_FILE), {"positions": []})
    assert "is not what a sweep writes" in refused(world.root, capsys, train_stitch, *select)


def test_nothing_of_single_cases_travels_with_nnunets_own_export(stitched2d, nnunet_env, tmp_path):
    world = nnunet_env(stitched2d.world)
    trainer, plans_name = stitched_model.FOLDER.split("__")
    export_pretrained_model(world.host.dataset, str(tmp_path / "sent.zip"), ("2d",), trainer, plans_name, (0, 1))
    names = zipfile.ZipFile(tmp_path / "sent.zip").namelist()
    assert any(n.endswith("checkpoint_final.pth") for n in names) and not any("cases" in n for n in names)
