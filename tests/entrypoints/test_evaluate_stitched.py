"""nnUNetv2_evaluate_stitched: flags, what is printed and written, and bad input."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import stitched_model
from evaluated_files import build
from stitched_model import as_nobody, tree

from nnunetv2_stitch.entrypoints import evaluate_stitched
from nnunetv2_stitch.entrypoints.common import run


def command(*arguments):
    """As the console script: parse, then call through `run`."""
    args = evaluate_stitched.build_parser().parse_args([*map(str, arguments), "--disable_progress_bar"])
    run(lambda: evaluate_stitched.main(args), verbose=args.verbose, resume="--c")


def given(files, *models):
    """`-models` and `-datasets` of made files."""
    return ["-models", *(f"{m}={files.model(m)}" for m in models or ("host", "joined")),
            "-datasets", *(f"{p}={files.party(p)}" for p in "AB")]


@pytest.fixture
def files(tmp_path):
    return build(tmp_path / "files", cases=3, models=("host", "joined"))


@pytest.fixture
def bad(files, tmp_path, capsys):
    """`bad(*flags)`: the one line that the command says; checks the code and that nothing was written."""
    def refuse(*flags):
        before = tree(tmp_path), sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            command(*flags, *([] if "-o" in flags or "-comparison" in flags else ["-o", tmp_path / "out"]))
        err = capsys.readouterr().err
        assert caught.value.code == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
        assert (tree(tmp_path), sorted(tmp_path.rglob("*"))) == before
        return err
    return refuse


@pytest.mark.slow
def test_all_flags_and_again_from_the_file(files, tmp_path, capsys):
    out = tmp_path / "out"
    for hospital, party in (("C", "A"), ("D", "B")):  # they are no party
        shutil.copytree(files.party(party), files.party(hospital))
        for model in ("host", "joined"):
            shutil.copytree(files.model(model) / party, files.model(model) / hospital)
    command(*given(files), "-unseen", *(f"{h}={files.party(h)}" for h in "CD"), "-o", out, "-host", "joined", "-own",
            "B", "-tolerance", 2, "-notes", "host=needs much", "-worst", 0, "-seed", 7)
    printed = capsys.readouterr().out
    for text in ("B (own cases), foreground mean", "A (partner's cases)", "C (unseen hospital)", "D (unseen hospital)",
                 "Own, partner's and unseen, Dice", "unseen, mean of 2", "host †", "† needs much", "joined",
                 str(out / "report.html")):
        assert text in printed
    recorded = json.loads((out / "comparison.json").read_text())
    assert (recorded["host"], recorded["own"]) == ("joined", "B")
    assert recorded["settings"]["tolerance"] == 2.0 and recorded["settings"]["seed"] == 7
    assert not list((out / "figures").glob("worst*"))
    command("-comparison", out / "comparison.json", "-o", tmp_path / "again")
    assert "All 72 rows are those of" in capsys.readouterr().out
    again = json.loads((tmp_path / "again" / "comparison.json").read_text())
    assert [d["unseen"] for d in again["datasets"]] == [False, False, True, True] and again["unseen_means"]
    for key in ("scores", "summaries", "tests", "planes", "unseen_means", "settings", "host", "own", "labels"):
        assert again[key] == recorded[key], key
    assert list((tmp_path / "again" / "figures").glob("worst*"))


@pytest.mark.slow
def test_again_after_something_changed(files, tmp_path, capsys):
    command(*given(files), "-o", tmp_path / "out", "-worst", 0)
    shutil.copy(files.model("host") / "A" / "case_0.nii.gz", files.model("joined") / "A" / "case_0.nii.gz")
    capsys.readouterr()
    command("-comparison", tmp_path / "out" / "comparison.json", "-worst", 0)
    assert "3 of 36 rows differ" in capsys.readouterr().out


def test_default_output(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command(*given(files, "host"), "-worst", 0)
    assert (tmp_path / "nnUNetv2_evaluate_stitched" / "report.html").is_file()


@pytest.mark.slow
def test_labels_from_a_file(files, tmp_path):
    for party in "AB":
        (files.party(party) / "dataset.json").rename(tmp_path / "dataset.json")
    command(*given(files), "-o", tmp_path / "out", "-djfile", tmp_path / "dataset.json", "-worst", 0)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["labels"]["inner"] == 2
    command("-comparison", tmp_path / "out" / "comparison.json", "-worst", 0)  # which holds the labels


def test_what_is_missing_or_too_much(bad, files, tmp_path):
    for flags in ((), given(files)[:3], given(files)[3:]):
        assert "give -models and -datasets, or -comparison" in bad(*flags)
    assert "-models has no place beside it" in bad("-comparison", "x.json", *given(files))
    assert "--disable_tta has no place beside it" in bad("-comparison", "x.json", "--disable_tta")
    assert "-unseen has no place beside it" in bad("-comparison", "x.json", "-unseen", "C=x")
    assert "'C' does not name a dataset" in bad(*given(files), "-unseen", "C")
    assert "-unseen C:" in bad(*given(files), "-unseen", f"C={files.party('B')}")
    assert "x.json does not exist" in bad("-comparison", tmp_path / "x.json")
    assert "is no comparison" in bad("-comparison", files.party("A") / "dataset.json")


def test_names_and_folders(bad, files, tmp_path):
    assert "write NAME=FOLDER" in bad("-models", "x", *given(files)[3:])
    assert "nowhere does not exist" in bad("-models", f"x={tmp_path}/nowhere", *given(files)[3:])
    assert "-notes nobody" in bad(*given(files), "-notes", "nobody=x")
    assert "-host nobody" in bad(*given(files), "-host", "nobody")
    assert "so it has no mode host" in bad("-models", f"x={files.model('host')}@host", *given(files)[3:])
    assert "no file" in bad(*given(files), "-djfile", tmp_path / "no file")


def test_case_without_a_prediction(bad, files):
    (files.model("joined") / "B" / "case_2.nii.gz").unlink()
    assert "case case_2 of dataset B" in bad(*given(files))


@pytest.mark.parametrize(("flag", "value"), [("-tolerance", "-1"), ("-tolerance", "nan"), ("-worst", "-1"),
                                             ("-worst", "x"), ("-f", "x")])
def test_values_that_argparse_refuses(files, flag, value, capsys):
    with pytest.raises(SystemExit) as caught:
        command(*given(files), flag, value)
    assert caught.value.code == 2 and flag in capsys.readouterr().err


def test_output_folder_that_cannot_be(bad, files, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert str(tmp_path / "file") in bad(*given(files), "-o", out)


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs Linux")
def test_no_write_permission(capsys):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        root = Path(name)
        os.chmod(root, 0o755)
        files = build(root / "files", cases=1, models=("host",))
        (root / "out").mkdir()
        os.chmod(root / "out", 0o555)
        with as_nobody(), pytest.raises(SystemExit) as caught:
            command(*given(files, "host"), "-o", root / "out" / "deeper")
        assert caught.value.code == 2 and f"no permission to write into {root / 'out'}" in capsys.readouterr().err


@pytest.fixture
def trained(stitched2d):
    """`-models` and `-datasets` of a stitched model and its parents, which are model folders."""
    world = stitched2d.world
    return ["-models", f"A alone={world.model(world.host)}", f"B alone={world.model(world.partner)}",
            f"same as A={stitched2d.folder}@host", f"stitched={stitched2d.folder}",
            "-datasets", f"A={world.raw / world.host.dataset}", f"B={world.raw / world.partner.dataset}",
            "-device", "cpu", "-f", 0, "--disable_tta"]


@pytest.mark.slow
def test_trained_models(stitched2d, trained, tmp_path, capsys):
    """Plain and stitched; the plain parent and the stitched model answering as it are the same."""
    from nnunetv2_stitch.evaluation.comparison import read_comparison
    before = tree(stitched2d.world.root)
    out = tmp_path / "out"
    command(*trained, "-o", out)
    assert tree(stitched2d.world.root) == before
    found = read_comparison(str(out / "comparison.json"))
    mean = {(m, p): found.summary(m, p, found.labels.main).mean for m in found.model_names for p in "AB"}
    assert mean["A alone", "A"] > 0.8 > mean["A alone", "B"] and mean["B alone", "B"] > 0.8 > mean["B alone", "A"]
    alone, same = (out / "predictions" / model / "B" for model in ("A alone", "same as A"))
    stitched_model.assert_equal_voxels(alone, same, 3)
    assert any("too few" in line for line in found.remarks)  # three cases
    assert (out / "figures" / "worst_A_1.png").is_file()
    capsys.readouterr()
    lost = out / "predictions" / "stitched" / "A" / "ts_001.nii.gz"
    kept = {p: p.stat().st_mtime_ns for p in (out / "predictions").rglob("*.nii.gz") if p != lost}
    lost.unlink()
    command("-comparison", out / "comparison.json", "-device", "cpu", "--c", "-worst", 0)
    assert "All 72 rows are those of" in capsys.readouterr().out
    assert lost.is_file() and {p: p.stat().st_mtime_ns for p in kept} == kept


@pytest.mark.slow
def test_trained_models_that_cannot_be_used(stitched2d, trained, bad, tmp_path):
    world = stitched2d.world
    datasets = trained[trained.index("-datasets"):]
    host = world.model(world.host)
    assert "no stitched model, so it has no mode partner" in bad("-models", f"x={host}@partner", *datasets)
    assert "of fold 7" in bad("-models", f"x={host}", *datasets[:3], "-device", "cpu", "-f", 7)
    assert "no checkpoint_typo.pth" in bad("-models", f"x={host}", *datasets, "-chk", "checkpoint_typo.pth")
    labels = shutil.copytree(world.test_labels(world.host), tmp_path / "labels_only" / "labels").parent
    assert "has no images" in bad("-models", f"x={host}", "-datasets", f"A={labels}")
    shutil.copytree(world.test_images(world.host), labels / "images")
    (labels / "images" / "ts_001_0000.nii.gz").unlink()
    assert "case ts_001 of dataset A has no image" in bad("-models", f"x={host}", "-datasets", f"A={labels}")
    copy = Path(shutil.copytree(host, tmp_path / host.name))
    checkpoint = copy / "fold_0" / "checkpoint_final.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    assert "cut short" in bad("-models", f"x={copy}", *datasets)


@pytest.mark.slow
def test_predictions_of_other_images_are_not_kept(stitched2d, trained, tmp_path):
    """A case's name does not say what its image is."""
    world = stitched2d.world
    raw = Path(shutil.copytree(world.raw / world.host.dataset, tmp_path / "raw"))
    call = ["-models", f"x={world.model(world.host)}", "-datasets", f"A={raw}", "-device", "cpu", "-f", 0,
            "--disable_tta", "-worst", 0, "-o", tmp_path / "out"]
    command(*call)
    predicted = tmp_path / "out" / "predictions" / "x" / "A"
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(predicted.glob("*.nii.gz"))}
    shutil.copyfile(raw / "imagesTs" / "ts_001_0000.nii.gz", raw / "imagesTs" / "ts_000_0000.nii.gz")
    command(*call, "--c")
    after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(predicted.glob("*.nii.gz"))}
    assert [name for name in before if before[name][0] != after[name][0]] == ["ts_000.nii.gz"]
    assert after["ts_000.nii.gz"][1] == before["ts_001.nii.gz"][1] != before["ts_000.nii.gz"][1]


@pytest.mark.slow
def test_predictions_of_another_model_are_not_kept(stitched2d, trained, tmp_path, capsys):
    world = stitched2d.world
    one = ["-datasets", f"A={world.raw / world.host.dataset}", "-device", "cpu", "-f", 0, "--disable_tta", "-worst", 0,
           "-o", tmp_path]
    command("-models", f"x={world.model(world.host)}", *one)
    first = tree(tmp_path / "predictions")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command("-models", f"x={world.model(world.partner)}", *one, "--c")
    assert "holds predictions of another model" in capsys.readouterr().err
    assert tree(tmp_path / "predictions") == first
    command("-models", f"x={world.model(world.partner)}", *one)
    assert tree(tmp_path / "predictions") != first
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "report.html").write_text("mine")
    with pytest.raises(SystemExit):
        command("-models", f"y={world.model(world.host)}", *one[:-1], reports)
    assert "report.html is there and not of a comparison" in capsys.readouterr().err
    assert [p.name for p in reports.iterdir()] == ["report.html"]
    own = tmp_path / "predictions" / "y" / "A"  # somebody's work, in a folder that happens to be called so
    own.mkdir(parents=True)
    (own / "ts_000.nii.gz").write_bytes(b"by hand")
    with pytest.raises(SystemExit):
        command("-models", f"y={world.model(world.host)}", *one)
    assert "not predicted by this command" in capsys.readouterr().err
    assert (own / "ts_000.nii.gz").read_bytes() == b"by hand"
