"""The partner's side: every position on its own cases, with the model folder alone."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from partner_site import command, edit, make_site, refused, use
from stitched_model import start, stitched_env

from nnunetv2_stitch.entrypoints import sweep_stitched


@pytest.fixture
def site(stitched2d, tmp_path, monkeypatch):
    return use(make_site(stitched2d, tmp_path / "site"), monkeypatch)


def test_the_hosts_own_dataset_gives_the_sweep_of_the_training(stitched2d, nnunet_env, tmp_path, monkeypatch, capsys):
    """The same cases, read from raw images and from the folder alone: the same numbers."""
    nnunet_env(stitched2d.world)
    monkeypatch.chdir(tmp_path)
    command(sweep_stitched, "-m", stitched2d.folder, "-d", "801", "-f", "0", "-positions", "2,20-21")
    result = json.loads((tmp_path / "sweep_Dataset801_HostBlobs.json").read_text())
    wanted = json.loads((stitched2d.folder / "fold_0" / "sweep.json").read_text())
    found, = result["sweeps"]
    assert result["party"] == "host" and found["positions"] == [2, 20, 21]
    for key in ("ensemble", "host_head", "partner_head"):
        assert found[key] == pytest.approx([wanted[key][wanted["positions"].index(p)] for p in (2, 20, 21)], abs=1e-3)
    assert found["baselines"] == pytest.approx(wanted["baselines"], abs=1e-3)
    out = capsys.readouterr().out
    assert "fold 0: 5 validation cases" in out and "plain ensemble" in out and "say little" in out
    assert "nnUNetv2_train_stitch" in out and "-sweeps sweep_Dataset801_HostBlobs.json" in out


@pytest.mark.slow
def test_a_killed_sweep_goes_on_without_the_cases_that_are_done(stitched2d, nnunet_env, tmp_path, monkeypatch, capsys):
    nnunet_env(stitched2d.world)
    monkeypatch.chdir(tmp_path)
    out, kept = tmp_path / "out.json", tmp_path / "out.fold_0.cases_0.jsonl"
    arguments = ["-m", str(stitched2d.folder), "-d", "801", "-f", "0", "-positions", "2,20-25", "-o", str(out),
                 "-device", "cpu"]
    running = start("nnUNetv2_sweep_stitched", *arguments, env=stitched_env(stitched2d.world))
    while not (kept.exists() and kept.read_text().count('"case"') > 1):
        assert running.process.is_alive(), running.output[-3000:]
        time.sleep(0.002)
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and not out.exists()
    lines = [json.loads(line) for line in kept.read_text().splitlines() if line]
    assert "tr_0" not in kept.read_text()
    for line in lines[1:]:  # forged, so that it shows whether they are computed again
        line["dice"] = [[0.0 for _ in row] for row in line["dice"]]
    forged = "".join(f"{json.dumps(line)}\n" for line in lines)
    kept.write_text(forged)
    command(sweep_stitched, *arguments, "--c")
    assert f"{len(lines) - 1} of 5 cases are done" in capsys.readouterr().out
    wanted = json.loads((stitched2d.folder / "fold_0" / "sweep.json").read_text())["baselines"]["host"]
    found = json.loads(out.read_text())["sweeps"][0]["baselines"]["host"]
    assert found == pytest.approx(wanted * (6 - len(lines)) / 5, abs=0.04)
    kept.write_text(forged)
    command(sweep_stitched, *arguments)
    assert "are done" not in capsys.readouterr().out and not list(tmp_path.glob("*.jsonl"))
    assert json.loads(out.read_text())["sweeps"][0]["baselines"]["host"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.slow
def test_other_numbers_and_names_of_labels_give_the_same_dice(site, capsys):
    """The partner counts b before a, calls it Bee, and has a label and an ignore label of its own."""
    import numpy as np
    import SimpleITK as sitk
    quick = ["-m", site.model, "-d", "802", "-f", "0", "-positions", "2"]
    command(sweep_stitched, *quick, "-o", "same.json")
    edit(site.raw / "dataset.json", lambda d: d.update(labels={"background": 0, "Bee": 1, "A": 2, "extra": 3,
                                                               "ignore": 4}))
    for path in (site.raw / "labelsTr").glob("*.nii.gz"):
        image = sitk.ReadImage(str(path))
        labels = np.array([0, 2, 1])[sitk.GetArrayFromImage(image)].astype(np.uint8)
        labels[..., -3:, :][labels[..., -3:, :] == 0] = 3
        changed = sitk.GetImageFromArray(labels)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path))
    (site.root / "map.json").write_text('{"Bee": "b"}')
    command(sweep_stitched, *quick, "-o", "other.json", "-label_map", "map.json")
    same, other = (json.loads((site.root / f"{n}.json").read_text()) for n in ("same", "other"))
    assert same == other and same["sweeps"][0]["cases"] == 5
    for word in ("tr_0", "Dataset", "Blobs", os.sep, "nii"):
        assert word not in (site.root / "same.json").read_text()
    assert "Bee" not in (site.root / "other.json").read_text()
    capsys.readouterr()
    command(sweep_stitched, *quick, "-o", "half.json")  # without the map there is no b to compare with
    assert "label 2 of the model has no reference" in capsys.readouterr().out
    half = json.loads((site.root / "half.json").read_text())
    assert half["sweeps"][0]["baselines"] != same["sweeps"][0]["baselines"]


def test_without_splits_the_test_cases_are_taken(site, capsys):
    arguments = ["-m", site.model, "-d", "Dataset802_PartnerBlobs", "-f", "1", "-positions", "2"]
    command(sweep_stitched, *arguments, "--test_cases", "-o", "a.json")
    site.splits.unlink()
    command(sweep_stitched, *arguments, "-o", "b.json")
    a, b = ((site.root / n).read_text() for n in ("a.json", "b.json"))
    assert a == b and json.loads(a)["sweeps"][0]["cases"] == 3
    assert "3 test cases" in capsys.readouterr().out


@pytest.mark.slow
def test_references_that_lie_elsewhere_than_their_images_are_named(site, capsys):
    """nnU-Net compares voxel by voxel, and so does the sweep, but not without a word."""
    import SimpleITK as sitk
    arguments = ["-m", site.model, "-d", "802", "-f", "0", "-positions", "2"]
    command(sweep_stitched, *arguments, "-o", "same.json")
    assert "elsewhere" not in capsys.readouterr().out
    path = str(site.raw / "labelsTr" / "tr_002.nii.gz")
    image = sitk.ReadImage(path)
    image.SetOrigin((0.0, 12.0, 0.0))
    sitk.WriteImage(image, path)
    command(sweep_stitched, *arguments, "-o", "moved.json")
    out = capsys.readouterr().out
    assert f"1 of 5 references lie elsewhere than their images, first {path}: origin differs" in out
    assert (site.root / "same.json").read_text() == (site.root / "moved.json").read_text()


def bad_site(site, capsys, *extra):
    return refused(site.root, capsys, sweep_stitched, "-m", site.model, "-d", "802", *extra)


def test_bad_input_of_the_partner(site, capsys, stitched2d, monkeypatch):
    assert "999" in refused(site.root, capsys, sweep_stitched, "-m", site.model, "-d", "999")
    assert "fold 7" in bad_site(site, capsys, "-f", "7")
    assert "position 900" in bad_site(site, capsys, "-positions", "900")
    assert "blocks" in bad_site(site, capsys, "-positions", "blocks")
    assert "is a folder" in bad_site(site, capsys, "-o", site.root)
    assert "cannot be written" in bad_site(site, capsys, "-o", site.root / "no" / "file.json")
    parent = stitched2d.world.model(stitched2d.world.host)
    assert "no stitched model" in refused(site.root, capsys, sweep_stitched, "-m", parent, "-d", "802")
    dataset = (site.raw / "dataset.json").read_text()
    edit(site.raw / "dataset.json", lambda d: d.update(labels={"background": 0, "x": 1, "y": 2}))
    assert "-label_map" in bad_site(site, capsys)
    edit(site.raw / "dataset.json", lambda d: d.update(labels={"background": 0, "a": [1, 2], "b": 2},
                                                       regions_class_order=[1, 2]))
    assert "regions" in bad_site(site, capsys)
    (site.raw / "dataset.json").write_text(dataset)
    edit(site.raw / "dataset.json", lambda d: d.update(channel_names={"0": "CT"}))
    assert "-channel_map" in bad_site(site, capsys)
    (site.raw / "dataset.json").write_text(dataset)
    (site.raw / "labelsTr" / "tr_000.nii.gz").unlink()
    assert "tr_000.nii.gz does not exist" in bad_site(site, capsys)
    site.splits.unlink()
    shutil.rmtree(site.raw / "labelsTs")
    assert "labelled test cases" in bad_site(site, capsys)
    monkeypatch.delenv("nnUNet_raw")
    assert "nnUNet_raw" in bad_site(site, capsys)


@pytest.mark.slow
def test_model_folders_that_are_not_whole(site, capsys, stitched2d):
    fold = site.model / "fold_0"
    stitches = fold / "stitches_all.safetensors"
    whole = stitches.read_bytes()
    stitches.write_bytes(whole[:1000])
    assert f"{stitches} is damaged" in bad_site(site, capsys)
    stitches.unlink()
    assert f"{stitches} is missing" in bad_site(site, capsys)
    stitches.write_bytes(whole)
    checkpoint = fold / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=True)
    content["network_weights"] = {k: v for k, v in content["network_weights"].items() if not k.startswith("partner.")}
    torch.save(content, checkpoint)
    assert "was pruned to what output" in bad_site(site, capsys)
