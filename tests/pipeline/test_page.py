"""report.html of what the commands make: it says what nnU-Net's validation found, shows cases, and stays here."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.model_sharing.model_export import export_pretrained_model
from pages import Page, page_of, pictured
from stitched_model import stitch

from nnunetv2_stitch.pipeline import page as page_module

pytestmark = pytest.mark.slow


def case_means(model: Path, folds) -> dict[str, float]:
    """Mean over labels of nnU-Net's Dice, by case."""
    found = {}
    for fold in folds:
        for row in json.loads((model / f"fold_{fold}" / "validation" / "summary.json").read_text())["metric_per_case"]:
            dice = [m["Dice"] for m in row["metrics"].values()]
            found[Path(row["reference_file"]).name.removesuffix(".nii.gz")] = float(np.nanmean(dice))
    return found


def pictures(page: Page, title: str) -> list[str]:
    """Captions that begin so."""
    return [line for line in page.text.splitlines() if line.startswith(title)]


def test_a_stitched_models_page_says_what_validation_found(stitched2d):
    world, page = stitched2d.world, page_of(stitched2d.folder)
    host, ours = case_means(world.model(world.host), (0, 1)), case_means(stitched2d.folder, (0, 1))
    assert host.keys() == ours.keys() and len(host) == 10
    difference = np.mean([ours[c] - host[c] for c in host])
    sentence = (f"Mean Dice on 10 of A's validation cases: stitched {np.mean(list(ours.values())):.3f}, A alone "
                f"{np.mean(list(host.values())):.3f}; difference {difference:+.3f} [")
    assert sentence in page.text
    ranked = sorted(ours, key=lambda case: -ours[case])
    for name, case in (("Best", ranked[0]), ("Median", ranked[5]), ("Worst", ranked[-1])):
        assert len(pictures(page, f"{name} case under stitched: {case}, fold ")) == 1
    shown = next(said for said in pictured(page) if ranked[-1] in said)
    assert f"A alone {host[ranked[-1]]:.3f}, B alone 0." in shown and f"stitched {ours[ranked[-1]]:.3f}" in shown
    assert "maps of disagreement" in shown
    for text in (world.host.dataset, world.partner.dataset, "nnUNetTrainerTiny", "PlainConvUNet", "features per stage",
                 "not said: ask before you pass the result on", "all 20 properties",
                 "nnUNetv2_predict_stitched"):
        assert text in page.text
    assert "What is missing here" not in page.text


def test_pictures_of_patients_do_not_leave_with_the_model(stitched2d, nnunet_env, tmp_path):
    """The kind: what shows single patients and travels with an exported model."""
    world = nnunet_env(stitched2d.world)
    trainer, plans, configuration = stitched2d.folder.name.split("__")
    export_pretrained_model(world.host.dataset, str(tmp_path / "out.zip"), (configuration,), trainer, plans, (0, 1))
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        names = archive.namelist()
        assert any(n.endswith("fold_1/checkpoint_final.pth") for n in names)
        assert not [n for n in names if "report.html" in n or n.endswith(".nii.gz")]


@pytest.fixture
def world(stitched2d, copy_world, nnunet_env, thread_pools):
    """Both parents and a stitched model of them, to change."""
    return nnunet_env(copy_world(stitched2d.world))


def test_what_cannot_be_shown_is_said_and_the_model_is_made(world, monkeypatch, capsys):
    """The kind: a page that fails, or is silent, where files of the host are not here."""
    images = world.raw / world.host.dataset
    shutil.rmtree(world.model(world.host) / "fold_0" / "validation")
    images.rename(images.with_name("away"))
    result = stitch(world, only_selection=True, page=True)
    page = page_of(result.model_folder)
    assert "A alone was validated on 5 cases, stitched on 10" in page.text
    assert "nnU-Net's own validation of A alone is not here" not in page.text
    assert "<summary>While choosing, by fold</summary>" in page.source
    assert "Pictures of cases: the images of " in page.text and "on 5 of A's validation cases" in page.text

    shutil.rmtree(world.model(world.host) / "fold_1" / "validation")
    images.with_name("away").rename(images)
    result = stitch(world, only_selection=True, page=True)
    page = page_of(result.model_folder)
    assert "Dice of A alone: " in page.text and "difference to A alone" not in page.text
    ours, host = (np.mean([row[name] for row in result.table]) for name in ("chosen", "A"))
    assert (f"nnU-Net's own validation of A alone is not here. On the same cases, while choosing (preprocessed grid, "
            f"no mirroring): stitched {ours:.3f}, A alone {host:.3f}; difference {ours - host:+.3f}.") in page.text
    assert "<h3>While choosing, by fold</h3>" in page.source, "the table with A alone is folded"
    assert "Stitched: mean Dice 0." in page.text and "A alone 0." in pictured(page)[-1]  # predicted for it

    def fails(*arguments, **named):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(page_module, "measured_and_shown", fails)
    lines: list[str] = []
    again = stitch(world, only_selection=True, page=True, say=lines.append)
    said = [line for line in lines if "report.html was not written" in line]
    assert len(said) == 1 and "No space left on device" in said[0] and "complete without it" in said[0]
    assert not (Path(result.model_folder) / "report.html").exists() and again.positions == result.positions
