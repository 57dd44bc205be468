"""Numbers travel back: the host chooses again with what a partner measured, and nothing is trained."""

import json
import os
import shutil
from pathlib import Path

import pytest
import stitched_model
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from partner_site import command, edit, make_site, refused, use
from stitched_model import tree
from world import World

from nnunetv2_stitch.entrypoints import sweep_stitched, train_stitch
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.selection.sweeps_file import PartySweeps, read_sweeps

SELECT = ["801", "802", "--select"]


@pytest.fixture(scope="module")
def sent(stitched2d, tmp_path_factory):
    """What the partner sends back, both folds and all positions: 15 s, for slow tests."""
    site = make_site(stitched2d, tmp_path_factory.mktemp("partner") / "site")
    with pytest.MonkeyPatch.context() as patch:
        use(site, patch)
        command(sweep_stitched, "-m", site.model, "-d", "802")
    return site.file


@pytest.mark.slow
def test_the_file_names_no_case_and_agrees_with_the_untouched_models(sent, stitched2d):
    text = sent.read_text()
    value = json.loads(text)
    assert list(value) == ["format", "party", "model_sha256", "sweeps"] and value["party"] == "partner"
    for word in ("tr_0", "ts_0", "Dataset", "Blobs", os.sep, "nii"):
        assert word not in text
    own = [json.loads((stitched2d.folder / f"fold_{f}" / "sweep.json").read_text()) for f in (0, 1)]
    for mine, theirs in zip(own, value["sweeps"]):
        assert {k: mine[k] for k in ("fold", "positions", "names")} == {k: theirs[k] for k in ("fold", "positions",
                                                                                               "names")}
        assert theirs["cases"] == 5
        assert theirs["baselines"]["partner"] > theirs["baselines"]["host"] + 0.3  # tests/world.py: 0.94 and 0.16


@pytest.fixture
def host(stitched2d, copy_world, nnunet_env, thread_pools, monkeypatch):
    """A copy of the host's world with the trained model in it, and the working directory there."""
    world = nnunet_env(copy_world(stitched2d.world))
    monkeypatch.chdir(world.root)
    return world


def folder_of(world: World) -> Path:
    return world.results / world.host.dataset / f"{stitched_model.FOLDER}__2d"


@pytest.mark.slow
def test_the_host_chooses_with_it_and_nothing_is_trained_again(host, sent, capsys, stitched2d):
    folder = folder_of(host)
    stitches = {p: p.stat().st_mtime_ns for p in folder.rglob("stitches_all.safetensors")}
    logs = sorted(folder.rglob("training_log_*.txt"))
    parents = tree(host.model(host.host), host.model(host.partner))
    command(train_stitch, *SELECT, "-sweeps", sent, "-prefer", "partner")
    out = capsys.readouterr().out
    assert len(stitches) == 2
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("stitches_all.safetensors")} == stitches
    assert "training the stitches" not in out
    assert tree(host.model(host.host), host.model(host.partner)) == parents

    sweeps = read_sweeps(str(sent)).sweeps
    mean = [sum(v) / 2 for v in zip(*(s.ensemble for s in sweeps))]
    best = sweeps[0].positions[max(range(len(mean)), key=mean.__getitem__)]
    selection = json.loads((folder / "stitch_selection.json").read_text())
    assert selection["positions"] == {"0": [best], "1": [best]} and best != stitched2d.result.position
    assert selection["rule"] == "pareto" and selection["pareto"][0]["prefer"] == "partner"
    assert best in selection["pareto"][0]["front"] and selection["pareto"][0]["files"] == [sent.name]
    assert (folder / "pareto.png").stat().st_size > 5000
    for fold in (0, 1):
        weights = torch.load(folder / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)["network_weights"]
        assert {k.split(".")[1] for k in weights if k.startswith("switches.")} == {str(best)}
        stamp = json.loads((folder / f"fold_{fold}" / "validation" / "stitch_setting.json").read_text())
        assert list(stamp["setting"]["switches"]) == [str(best)]  # validated anew
    assert len(sorted(folder.rglob("training_log_*.txt"))) >= len(logs)
    assert "Pareto front" in out and f"{best} <-" in out and f"Chosen position: {best}, " in out
    assert "nnUNetv2_predict_stitched -i INPUT_FOLDER" in out and "pareto.png" in out
    command(train_stitch, *(a for a in SELECT if a != "--select"), "--val")
    end = "\nMean Dice on A's validation cases"
    assert capsys.readouterr().out.partition(end)[2] == out.partition(end)[2] != ""

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0, 1))
    assert torch.isfinite(predictor.predict_logits_from_preprocessed_data(torch.randn(1, 1, 64, 64))).all()


@pytest.mark.slow
def test_each_preference_and_back_to_a_rule(host, sent, capsys, stitched2d):
    folder, chosen = folder_of(host), {}
    for preference in ("own", "balanced", "partner"):
        command(train_stitch, *SELECT, "-sweeps", sent, "-prefer", preference)
        chosen[preference] = json.loads((folder / "stitch_selection.json").read_text())["positions"]["0"][0]
    front = json.loads((folder / "stitch_selection.json").read_text())["pareto"][0]["front"]
    assert front.index(chosen["own"]) == 0 and set(chosen.values()) <= set(front) and len(set(chosen.values())) > 1
    command(train_stitch, *SELECT)
    selection = json.loads((folder / "stitch_selection.json").read_text())
    assert selection["rule"] == "2" and selection["positions"]["0"] == [stitched2d.result.position]
    assert "pareto" not in selection and not (folder / "pareto.png").exists()
    capsys.readouterr()
    command(train_stitch, *SELECT, "-position", "20", "-f", "1")
    out = capsys.readouterr().out
    assert "Chosen position: 20, " in out and "-f 1 0" in out  # one choice for all folds


def bad_selection(host, capsys, *arguments):
    return refused(host.root, capsys, train_stitch, *SELECT, *arguments)


@pytest.mark.slow
def test_files_that_do_not_fit(host, capsys):
    """The whole file is the host's numbers under the partner's name."""
    folder, name = folder_of(host), "sent.json"
    sweeps = tuple(Sweep.from_json(json.loads((folder / f"fold_{f}" / "sweep.json").read_text())) for f in (0, 1))
    digests = {str(f): sha256(str(folder / f"fold_{f}" / "stitches_all.safetensors")) for f in (0, 1)}
    Path(name).write_text(json.dumps(PartySweeps("partner", digests, sweeps).to_json()))
    assert "no.json does not exist" in bad_selection(host, capsys, "-sweeps", "no.json")
    Path("cut.json").write_text(Path(name).read_text()[:500])
    assert "cut.json is not readable JSON" in bad_selection(host, capsys, "-sweeps", name, "cut.json")
    own = folder / "fold_0" / "sweep.json"
    assert "is not what nnUNetv2_sweep_stitched writes" in bad_selection(host, capsys, "-sweeps", own)
    for change, said in (
            (lambda v: v["model_sha256"].update({"1": "0" * 64}), "of another model"),
            (lambda v: (v["model_sha256"].update({"7": v["model_sha256"].pop("1")}), v["sweeps"][1].update(fold=7)),
             "of another model"),
            (lambda v: v.update(party="host"), "the host's own numbers"),
            (lambda v: [s["names"].__setitem__(0, "another.layer") for s in v["sweeps"]], "at layer another.layer"),
            (lambda v: v["sweeps"][0]["ensemble"].pop(), "no value for each position")):
        path = edit(Path(shutil.copy(name, "changed.json")), change)
        assert said in bad_selection(host, capsys, "-sweeps", path)


@pytest.mark.parametrize(("flags", "named"), [
    (("--select", "--c"), "--c"), (("--select", "--val"), "--val"), (("--select", "--dry_run"), "--dry_run"),
    (("-sweeps", "x.json"), "needs --select"), (("-prefer", "own"), "needs --select"),
    (("--select", "-prefer", "own"), "-sweeps FILE"),
    (("--select", "-sweeps", "x.json", "-rule", "1"), "leave out -rule"),
    (("--select", "-sweeps", "x.json", "-position", "3"), "leave out -rule"),
    (("--select", "-fit", "task"), "no trained fold"),
    (("--select", "-fit", "task", "-f", "0"), "without --select"),
])
def test_flags_that_do_not_fit(stitched2d, nnunet_env, capsys, flags, named):
    world = nnunet_env(stitched2d.world)
    assert named in refused(world.root, capsys, train_stitch, "801", "802", *flags)


def test_numbers_of_partners_belong_to_a_finished_model(stitched2d, nnunet_env):
    nnunet_env(stitched2d.world)
    with pytest.raises(StitchError, match="only_selection"):
        stitched_model.stitch(stitched2d.world, continue_training=True, sweeps=["x.json"])
