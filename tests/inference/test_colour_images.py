"""The README's story on colour images, as stock nnU-Net takes them: a png per case, of three channels of one name.

The partner's keys of channel_names are no numbers, and folders hold what systems leave there.
"""

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import world as worlds
from partner_site import command, refused
from stitched_model import FOLDER, assert_equal_voxels, environment

from nnunetv2_stitch.entrypoints import (
    distill_stitched,
    evaluate_stitched,
    export_party,
    predict_stitched,
    stitch_info,
    sweep_stitched,
    train_stitch,
)

pytestmark = pytest.mark.slow
PNG, CASES = ".png", 3
LITTER = ("._ts_000_0000.png", ".DS_Store", "Thumbs.db", "notes.png")


@dataclass(frozen=True)
class Story:
    """Party A's world with the partner's zip; B is only there to compare with."""

    a: worlds.World
    b: worlds.World
    zip: Path
    told: str

    @property
    def model(self) -> Path:
        return self.a.results / self.a.host.dataset / f"{FOLDER}__2d"


def plainly(module, *arguments):
    """A command that takes no device."""
    module.main(module.build_parser().parse_args([*map(str, arguments)]))


@pytest.fixture(scope="module")
def story(world_rgb, tmp_path_factory):
    """Exported at B, looked at and stitched at A."""
    root = tmp_path_factory.mktemp("rgb")
    b = world_rgb
    a = worlds.World(Path(shutil.copytree(b.root, root / "a")), 2, True)
    for folder in (a.raw, a.preprocessed, a.results):
        shutil.rmtree(folder / a.partner.dataset)
    set_aside = a.model(a.host)
    shutil.copytree(set_aside, set_aside.with_name(f"{set_aside.name}_old"))
    shutil.copytree(set_aside / "fold_0", set_aside / "fold_0_old")
    for folder in (set_aside, set_aside / "fold_0", a.results, a.raw, a.preprocessed / a.host.dataset):
        (folder / ".DS_Store").write_bytes(b"of a system")
    sent = root / "B.zip"
    told = io.StringIO()
    with worlds.thread_pools(), environment(b.env):
        plainly(export_party, "-d", b.partner.dataset_id, "-c", "2d", "-o", sent, "-name", "SiteB")
    with worlds.thread_pools(), environment(a.env):
        with contextlib.redirect_stdout(told):
            plainly(stitch_info, a.host.dataset_id, "-m_b", sent, "--json")
        command(train_stitch, a.host.dataset_id, "-m_b", sent, "-epochs", 1, "-iterations", 2, "-positions", "2,20,41")
    return Story(a, b, sent, told.getvalue())


@pytest.fixture
def at_a(story, nnunet_env):
    nnunet_env(story.a)
    return story


@pytest.fixture
def images(story, tmp_path):
    """The partner's, with things beside them that are none of ours to stumble on."""
    folder = Path(shutil.copytree(story.b.test_images(story.b.partner), tmp_path / "images"))
    for name in LITTER:
        (folder / name).write_bytes(b"of a system")
    return folder


def stock(patch, folder: Path, images: Path, output: Path) -> Path:
    """`nnUNetv2_predict` with a model folder, in this process."""
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point
    trainer, plans, configuration = folder.name.split("__")
    patch.setattr("sys.argv", ["nnUNetv2_predict", "-i", str(images), "-o", str(output), "-d", folder.parent.name,
                               "-tr", trainer, "-p", plans, "-c", configuration, "-f", "0", "-device", "cpu", "-npp",
                               "0", "-nps", "0", "--disable_progress_bar"])
    predict_entry_point()
    return output


def test_info_and_export_take_keys_that_are_no_numbers_and_channels_of_one_name(story):
    lines = {line["name"]: line for line in json.loads(story.told)["lines"]}
    assert lines["channels"]["kind"] == "same" and lines["channels"]["partner"] == "rgb_to_0_1, rgb_to_0_1, rgb_to_0_1"
    assert json.loads(story.told)["can_be_stitched"]


def test_predictions_are_stocks(at_a, images, tmp_path, monkeypatch):
    """The stitched model's against stock nnU-Net on it; each parent's against stock nnU-Net on that parent."""
    a, b = at_a.a, at_a.b
    clean = a.root / "clean"
    shutil.copytree(b.test_images(b.partner), clean, dirs_exist_ok=True)
    for mode, results, model in (("stitched", a.results, at_a.model), ("host", a.results, a.model(a.host)),
                                 ("partner", b.results, b.model(b.partner))):
        monkeypatch.setenv("nnUNet_results", str(a.results))
        command(predict_stitched, "-i", images, "-o", tmp_path / mode, "-d", a.host.dataset_id, "-mode", mode,
                *(["--save_disagreement"] if mode == "stitched" else []))
        monkeypatch.setenv("nnUNet_results", str(results))
        assert_equal_voxels(tmp_path / mode, stock(monkeypatch, model, clean, tmp_path / f"stock_{mode}"), CASES, PNG)
    assert sorted(p.name for p in (tmp_path / "stitched" / "disagreement").iterdir()) \
        == [f"ts_00{i}.png" for i in range(CASES)]


def test_evaluation_of_models(at_a, tmp_path, capsys):
    """Dice of every model on both test sets is that of nnU-Net's own evaluation of stock predictions."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    a, b = at_a.a, at_a.b
    test_sets = {"A": a.raw / a.host.dataset, "B": Path(shutil.copytree(b.raw / b.partner.dataset, tmp_path / "B"))}
    for name in LITTER:
        (test_sets["B"] / "labelsTs" / name.replace("notes.png", "notes.txt")).write_bytes(b"of a system")
    (tmp_path / "out" / "predictions" / "A alone" / "B").mkdir(parents=True)
    (tmp_path / "out" / "predictions" / "A alone" / "B" / ".DS_Store").touch()
    command(evaluate_stitched, "-models", f"A alone={a.model(a.host)}", f"stitched={at_a.model}", "-datasets",
            *(f"{k}={v}" for k, v in test_sets.items()), "-o", tmp_path / "out", "--c")
    capsys.readouterr()
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(found["scores"]) == 2 * 2 * CASES * 3 and not [r for r in found["remarks"] if "elsewhere" in r]
    wanted = compute_metrics_on_folder(
        str(a.test_labels(a.host)), str(tmp_path / "out" / "predictions" / "stitched" / "A"), None, NaturalImage2DIO(),
        PNG, [1, 2], num_processes=1)
    for row in wanted["metric_per_case"]:
        case = Path(row["reference_file"]).stem
        for value, label in ((1, "a"), (2, "b")):
            dice, = (s["dice"] for s in found["scores"]
                     if (s["model"], s["party"], s["case"], s["label"]) == ("stitched", "A", case, label))
            assert dice == pytest.approx(row["metrics"][value]["Dice"], nan_ok=True)
    assert list((tmp_path / "out" / "figures").glob("worst*"))


def test_the_partner_sweeps_on_its_own_colour_images(story, nnunet_env, tmp_path, monkeypatch):
    """By its validation cases, and by its test cases with litter among them: the partner alone is as good as nnU-Net's
    own validation of it says."""
    world = nnunet_env(worlds.World(Path(shutil.copytree(story.b.root, tmp_path / "b")), 2, True))
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", story.model, "-d", world.partner.dataset_id, "-positions", 2]
    command(sweep_stitched, *arguments, "-party", "partner", "-o", "validation.json")
    alone = json.loads(Path("validation.json").read_text())["sweeps"][0]["baselines"]["partner"]
    summary = json.loads((world.model(world.partner) / "fold_0" / "validation" / "summary.json").read_text())
    assert alone == pytest.approx(summary["foreground_mean"]["Dice"], abs=0.03)  # without mirroring
    for folder in (world.test_images(world.partner), world.test_labels(world.partner)):
        for name in LITTER[:-1]:
            (folder / name).write_bytes(b"of a system")
    command(sweep_stitched, *arguments, "-party", "partner", "--test_cases", "-o", "test.json")
    assert json.loads(Path("test.json").read_text())["sweeps"][0]["cases"] == CASES


def test_a_student_learns_from_colour_images_without_labels(at_a, images, thread_pools):
    command(distill_stitched, "-m", at_a.model, "-d", at_a.a.host.dataset_id, "-unlabelled", images, "-epochs", 1,
            "-iterations", 2)
    folder = next((at_a.a.preprocessed / at_a.a.host.dataset).glob("*_unlabelled"))
    assert sorted(p.stem for p in folder.glob("*.pkl")) == [f"ts_00{i}" for i in range(CASES)]


def test_pictures_with_other_channels_are_refused_in_one_line(at_a, images, tmp_path, capsys):
    """Grey or transparent pictures among colour ones: said before anything is predicted, or with the case's name."""
    import numpy as np
    import SimpleITK as sitk
    arguments = ["-i", images, "-o", tmp_path / "out", "-d", at_a.a.host.dataset_id]

    def save(case, channels):
        pixels = sitk.GetImageFromArray(np.full((64, 64, channels), 90, np.uint8), isVector=True)
        sitk.WriteImage(pixels, str(images / f"{case}_0000.png"))
    save("ts_000", 4)
    err = refused(tmp_path, capsys, predict_stitched, *arguments)
    assert "case ts_000" in err and "has 4 channels (ts_000_0000.png), the model needs 3" in err
    save("ts_000", 3)
    save("ts_002", 4)
    with pytest.raises(SystemExit):
        command(predict_stitched, *arguments)
    assert "case ts_002" in (err := capsys.readouterr().err) and "has 4 channels" in err
    (images / "ts_001_0000.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        command(predict_stitched, *arguments)
    assert "ts_001_0000.png or another file of its case cannot be read" in (err := capsys.readouterr().err)
    assert err.count("\n") == 1
