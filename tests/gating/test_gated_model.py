"""A gated model of two hospitals: who answers whose images, and that stock nnU-Net gives the same."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import stitched_model
import torch
from gating.conftest import POSITION
from pages import page_of, pictured
from stitched_model import assert_equal_voxels, read_segmentations, stock_prediction

from nnunetv2_stitch.pipeline.gating import PATH

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predicted(gated2d, tmp_path_factory):
    """Folders of what our command and stock nnU-Net answer to the test images of either party, with mirroring."""
    from nnunetv2_stitch.entrypoints.predict_stitched import build_parser, main
    root, world = tmp_path_factory.mktemp("predicted"), gated2d.world
    for party in world.parties:
        with stitched_model.environment(stitched_model.stitched_env(world)), contextlib.redirect_stdout(io.StringIO()):
            main(build_parser().parse_args(
                ["-i", str(world.test_images(party)), "-o", str(root / party.name), "-m", str(gated2d.folder),
                 "-device", "cpu", "--disable_progress_bar", "--save_disagreement"]))
        stock_prediction(gated2d.folder, world.test_images(party), root / f"stock_{party.name}")
    return root


def dice(folder: Path, world, party) -> float:
    answers, labels = read_segmentations(folder), read_segmentations(world.test_labels(party))
    found = [2 * ((answers[n] == k) & (labels[n] == k)).sum() / ((answers[n] == k).sum() + (labels[n] == k).sum())
             for n in labels for k in (1, 2)]
    assert len(found) == 6
    return float(np.mean(found))


def gate_of_plans(folder: Path) -> dict:
    plans = json.loads((folder / "plans.json").read_text())
    return plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["gate"]


def test_stock_nnunet_gives_the_same_voxels(gated2d, predicted):
    for party in gated2d.world.parties:
        assert_equal_voxels(predicted / party.name, predicted / f"stock_{party.name}", 3)


def test_its_page_shows_who_answers_what(gated2d):
    page = page_of(gated2d.folder)
    assert any("A's share of the answer" in a["alt"] for a in page.all("img"))
    assert sum("maps of disagreement and A's share" in said for said in pictured(page)) == 3
    assert "SiteB" in page.text and "Gate: each image" in page.text


def test_each_party_s_images_are_answered_by_its_own_network_and_no_worse(gated2d, predicted, tmp_path):
    """On images of either party the gated model is at least as good as the better parent, within .02 of Dice."""
    world = gated2d.world
    for index, party in enumerate(world.parties):
        record = json.loads((predicted / party.name / "shares.json").read_text())
        shares = np.array([list(c["shares"].values()) for c in record["cases"].values()])
        assert len(shares) == 3 and np.allclose(shares.sum(1), 1, atol=1e-3)
        assert shares[:, index].mean() > 0.7, (party.name, shares)
        with stitched_model.environment(world.env):
            alone = [dice(stock_prediction(world.model(p), world.test_images(party), tmp_path / f"{index}{p.name}"),
                          world, party) for p in world.parties]
        assert dice(predicted / party.name, world, party) > max(alone) - 0.02


def test_the_shares_are_said_in_words_and_shown_as_maps(gated2d, predicted):
    """Beside the prediction: a sentence for each case, and a map in the image's geometry whose mean is the share."""
    world = gated2d.world
    folder = predicted / world.partner.name
    record = json.loads((folder / "shares.json").read_text())
    case, found = next(iter(record["cases"].items()))
    assert record["parties"] == {"host": world.host.dataset, "partner": "SiteB"}
    assert found["said"].startswith(f"answered {100 * found['shares']['partner']:.0f} % by SiteB (partner), ")
    maps, answers = read_segmentations(folder / "shares"), read_segmentations(folder)
    assert maps.keys() == answers.keys() == {f"{c}.nii.gz" for c in record["cases"]}
    for name, values in maps.items():
        assert values.shape == answers[name].shape
        share = 100 * record["cases"][name[:-7]]["shares"]["host"]
        assert abs(values.mean() - share) <= 1  # one tile per case


def test_the_shares_are_those_of_the_segmentations_that_are_there(gated2d, predicted, tmp_path):
    """The kind: what lies beside segmentations speaks of these, whether they came in one run or several, and goes when
    they are replaced by others."""
    from nnunetv2_stitch.entrypoints.predict_stitched import build_parser, main
    from nnunetv2_stitch.errors import StitchError
    world, shares = gated2d.world, tmp_path / "out" / "shares.json"
    images = Path(shutil.copytree(world.test_images(world.partner), tmp_path / "images"))
    last = max(images.iterdir())

    def predict(*more: str, images: Path = images) -> str:
        said = io.StringIO()
        with stitched_model.environment(stitched_model.stitched_env(world)), contextlib.redirect_stdout(said), \
                contextlib.redirect_stderr(said):
            main(build_parser().parse_args(["-i", str(images), "-o", str(shares.parent), "-m", str(gated2d.folder),
                                            "-device", "cpu", "--disable_progress_bar", *more]))
        return said.getvalue()

    content = last.read_bytes()
    last.write_bytes(content[:100])
    with pytest.raises(StitchError, match="cannot be read"):
        predict()
    last.write_bytes(content)
    assert len(read_segmentations(shares.parent)) == 2
    predict("--continue_prediction")
    assert json.loads(shares.read_text()) == json.loads((predicted / world.partner.name / "shares.json").read_text())
    predict("--continue_prediction", "-mode", "ensemble")  # which predicts nothing
    assert len(json.loads(shares.read_text())["cases"]) == 3

    (tmp_path / "one").mkdir()
    shutil.copy(last, tmp_path / "one")
    predict("-mode", "ensemble", images=tmp_path / "one")
    left = json.loads(shares.read_text())["cases"]
    assert len(left) == 2 and last.name[:-len("_0000.nii.gz")] not in left
    parties = json.loads(shares.read_text())["parties"]
    shares.write_text(json.dumps({"parties": {**parties, "partner": "Dataset900_Other"}, "cases": left}))
    with pytest.raises(StitchError, match="cases of a model of .*Dataset900_Other, this model is of .*another output"):
        predict("--continue_prediction", images=tmp_path / "one")
    predict("-mode", "host")
    assert not shares.exists()

    (shares.parent / "disagreement").mkdir()
    shares.write_text('{"cases": "of another program"}')
    assert "disagreement was there before and is not of these answers" in predict("-mode", "host")
    before = stitched_model.tree(shares.parent)
    with pytest.raises(StitchError, match=r"shares.json is damaged or of another program; move it away"):
        predict()
    assert stitched_model.tree(shares.parent) == before


def test_the_choice_is_recorded_and_stands_in_plans_and_weights(gated2d):
    record = json.loads((gated2d.folder / "stitch_selection.json").read_text())
    gate, row = record["gate"], gated2d.result.table[0]
    assert gate["partners_known"] == [True]
    assert len(gate["host_shares"]) == len(gate["path"]) == len(gate["dice"]) == len(PATH)
    means = np.mean(gate["host_shares"], 1)
    assert (np.diff(means[:7]) >= 0).all(), "a less careful threshold gives the host more"
    chosen = gate["chosen"]
    kept = [d >= gate["dice_host"] - gate["dice_error"] - 1e-9 for d in gate["dice"]]
    assert kept[chosen] or not any(kept)
    assert gate["dice"][chosen] > gate["dice_even"]
    assert row["gated"] > row["chosen"] and abs(row["gated"] - gate["dice"][chosen]) < 0.02
    options = gate_of_plans(gated2d.folder)
    assert options == {**gate["path"][chosen], "wholly": gate["wholly"], "known": [True], "stages": 1,
                       "limited": True}
    weights = torch.load(gated2d.folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert {k.split(".")[1] for k in weights if k.startswith("gate.")} == {"host", "partner"}
    assert (gated2d.folder / "gate_shares.png").stat().st_size > 10_000
    assert any("Gate at the" in line for line in record["remarks"])


def test_other_modes_answer_without_the_gate(gated2d):
    from nnunetv2_stitch.inference.predictor import StitchedPredictor
    predictor = StitchedPredictor(device=torch.device("cpu"))
    with contextlib.redirect_stdout(io.StringIO()):
        predictor.initialize_from_trained_model_folder(str(gated2d.folder), 0)
    assert predictor.network.is_gated
    x = torch.randn(1, 1, 64, 64)
    for mode in ("ensemble", "host", "partner"):
        predictor.set_mode(mode)
        assert not predictor.network.is_gated
        with torch.no_grad():
            torch.testing.assert_close(predictor.network(x), predictor.network.joined(x), rtol=0, atol=0)
    predictor.set_mode("stitched")
    assert predictor.network.is_gated


def test_a_gate_is_taken_off_again_and_put_on_without_training(gated2d, tmp_path, thread_pools):
    """`--select` decides anew; the validation of nnU-Net is repeated where the gate has changed."""
    from dataclasses import replace

    from nnunetv2_stitch.pipeline import train_stitch
    world = replace(gated2d.world, root=Path(shutil.copytree(gated2d.world.root, tmp_path / "world")))
    folder = world.results / gated2d.folder.relative_to(gated2d.world.results)
    stamp = folder / "fold_0" / "validation" / "stitch_setting.json"
    before = json.loads(stamp.read_text())
    assert before["gate"]
    with stitched_model.environment(world.env):
        arguments = dict(folds=[0], positions=[2, 20, POSITION], position=POSITION, rule="3", fit="direct",
                         iterations=3, device="cpu", progress=False, only_selection=True, model_b=str(gated2d.zip))
        train_stitch(world.host.dataset_id, gate=False, **arguments)
        weights = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
        assert not any(k.startswith("gate.") for k in weights) and not (folder / "gate_shares.png").exists()
        assert "gate" not in json.loads(stamp.read_text()) and "gate" not in json.loads(
            (folder / "stitch_selection.json").read_text())
        chosen = train_stitch(world.host.dataset_id, gate=True, **arguments)
        assert json.loads(stamp.read_text()).keys() == before.keys()
        assert gate_of_plans(folder) == gate_of_plans(gated2d.folder)
        require_validation_to_say_the_same(world, folder, chosen, {
            k: v for k, v in arguments.items() if k not in ("rule", "position", "only_selection")})


def require_validation_to_say_the_same(world, folder: Path, chosen, arguments: dict) -> None:
    """The kind: `--val` chooses nothing, so the page, the record and the command's end say of the deployed model what
    they said when it was chosen, whatever is asked for beside it. Where the record is lost, or of other stitches,
    nothing is said of the gate that was not measured."""
    from nnunetv2_stitch.pipeline import train_stitch
    kept = {p: p.read_bytes() for p in (folder / "stitch_selection.json", folder / "MODEL_CARD.md")}
    page = page_of(folder).text
    again = train_stitch(world.host.dataset_id, only_validation=True, **arguments)
    assert again == chosen and "gated" in again.table[0]
    assert all(p.read_bytes() == content for p, content in kept.items())
    assert page_of(folder).text == page
    record = folder / "stitch_selection.json"
    of_others = {**json.loads(kept[record]), "stitches": {"0": "0" * 64}}
    for rest in (json.dumps(of_others), None):
        record.unlink() if rest is None else record.write_text(rest)
        lost = train_stitch(world.host.dataset_id, only_validation=True, page=False, **arguments)
        assert "gated" not in lost.table[0] and not any("worse than" in line for line in lost.remarks)
        assert any("What the gate gives is not known" in line for line in lost.remarks)
