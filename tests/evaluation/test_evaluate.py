"""`evaluate` on files: numbers against nnU-Net's own, and what stands in its way."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import evaluated_files as made
import numpy as np
import pytest
import stitched_model

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.evaluate import evaluate, inputs_of
from nnunetv2_stitch.evaluation.labels import FOREGROUND, Labels
from nnunetv2_stitch.evaluation.segmentations import read_segmentation


def test_dice_is_that_of_nnunet_in_every_digit(files2d, comparison2d, tmp_path, thread_pools):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    for model in comparison2d.model_names:
        summary = compute_metrics_on_folder(
            str(files2d.party("B") / "labelsTs"), str(files2d.model(model) / "B"), str(tmp_path / "summary.json"),
            SimpleITKIO(), ".nii.gz", [1, 2], num_processes=1)
        for row in summary["metric_per_case"]:
            case = Path(row["reference_file"]).name[:-len(".nii.gz")]
            for label, value in (("cortex", 1), ("inner", 2)):
                assert comparison2d.cases(model, "B", label)[case].dice == row["metrics"][value]["Dice"]
        for label, value in (("cortex", 1), ("inner", 2)):
            assert comparison2d.summary(model, "B", label).mean == pytest.approx(summary["mean"][value]["Dice"])


def test_who_is_better_where(comparison2d):
    mean = {(m, p): comparison2d.summary(m, p, FOREGROUND).mean for m in comparison2d.model_names for p in "AB"}
    assert mean["host", "A"] > mean["joined", "A"] > mean["partner", "A"]
    assert mean["host", "B"] < mean["joined", "B"] < mean["partner", "B"]
    assert comparison2d.planes[0].front == ["host", "joined", "partner"]
    for party, sign in (("A", -1), ("B", 1)):
        test = comparison2d.test("partner", party, FOREGROUND)
        assert test.significant and test.difference * sign > 0 and test.n == 7
        # seven pairs of one sign, two models
        assert test.p == pytest.approx(2 / 2**7) and test.p_holm == pytest.approx(4 / 2**7)
    assert comparison2d.test("host", "A", FOREGROUND) is None


def test_parties_are_never_averaged(comparison2d):
    assert {s.party for s in comparison2d.summaries} == {t.party for t in comparison2d.tests} == {"A", "B"}
    assert len(comparison2d.summaries) == 3 * 2 * 3 * 3  # models, parties, labels with their mean, measures


def test_every_partner_has_a_plane_of_its_own(files2d):
    sets = [*files2d.test_sets(), TestSet("C", str(files2d.party("B")))]
    models = [ModelEntry(m, predictions={p: str(files2d.model(m) / p.replace("C", "B")) for p in "ABC"})
              for m in ("host", "partner")]
    found = evaluate(models, sets, own="B", resamples=50)
    assert [(p.own, p.partner) for p in found.planes] == [("B", "A"), ("B", "C")]
    assert found.planes[0].front == ["partner", "host"] and found.planes[1].front == ["partner"]
    assert found.parties == ["B", "A", "C"]


def test_foreground_mean_of_a_case(comparison2d):
    found = {label: comparison2d.cases("joined", "A", label)["case_1"] for label in comparison2d.labels.rows}
    for measure in ("dice", "surface_dice", "hd95"):
        values = [getattr(found[label], measure) for label in ("cortex", "inner")]
        assert getattr(found[FOREGROUND], measure) == pytest.approx(np.mean(values))


def test_tolerance_is_one_voxel_in_the_plane(files2d, comparison2d):
    assert comparison2d.settings.tolerance == 1.0  # of 999 x 1 x 0.5 mm
    wide = evaluate(files2d.entries(), files2d.test_sets(), tolerance=50.0, resamples=50)
    assert {s.surface_dice for s in wide.scores} == {1.0}


def test_the_same_inputs_give_the_same_comparison(files2d, comparison2d):
    assert evaluate(**inputs_of(comparison2d)).to_json() == comparison2d.to_json()


def test_three_dimensions(tmp_path):
    files = made.build(tmp_path, dim=3, cases=2, models=("host",))
    found = evaluate(files.entries(), files.test_sets("A"), resamples=50)
    assert found.settings.tolerance == 1.0 and found.planes == () and found.tests == ()
    # all slices are alike and the shift is 0 or the radius 0.3 larger, so no distance leaves the plane
    assert max(s.hd95 for s in found.scores) <= math.sqrt(2)


def test_without_torch(files2d):
    code = (
        "import sys\n"
        "from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet\n"
        "from nnunetv2_stitch.evaluation.evaluate import evaluate\n"
        "from nnunetv2_stitch.evaluation.output import write_comparison\n"
        f"c = evaluate([ModelEntry('x', {str(files2d.model('host'))!r})], [TestSet('A', {str(files2d.party('A'))!r})],"
        " resamples=50)\n"
        "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": stitched_model.python_path()})
    assert done.returncode == 0, done.stderr


def test_segmentations_directly_in_the_folder_of_one_dataset(files2d):
    """Also without any dataset.json, given the labels."""
    labels = Labels.from_json(made.LABELS)
    model = ModelEntry("x", str(files2d.model("host") / "A"))
    found = evaluate([model], [TestSet("mine", str(files2d.party("A") / "labelsTs"))], labels=labels, resamples=50)
    assert found.summary("x", "mine", FOREGROUND).n == 7
    with pytest.raises(StitchError, match="-djfile"):
        evaluate([model], [TestSet("mine", str(files2d.party("A") / "labelsTs"))])
    named = ModelEntry("x", predictions={p: str(files2d.model("joined") / p) for p in "AB"})
    assert evaluate([named], files2d.test_sets(), resamples=50).summary("x", "B", FOREGROUND).n == 7


def case(folder, name, voxels, spacing=(999.0, 1.0, 0.5)):
    made.write_image(folder / f"{name}.nii.gz", voxels, spacing)


def test_empty_labels(files):
    """case_0: nothing in the reference; case_1: one label missing in the prediction."""
    nothing = np.zeros((1, 40, 48), np.uint8)
    case(files.party("A") / "labelsTs", "case_0", nothing)
    case(files.model("joined") / "A", "case_0", nothing)
    rim_only = made.disc(nothing.shape, (19, 22), 9)
    rim_only[rim_only == 2] = 0
    case(files.model("joined") / "A", "case_1", rim_only)
    found = evaluate(files.entries(), files.test_sets(), host="host", resamples=50)
    both = found.cases("joined", "A", FOREGROUND)["case_0"]
    assert both.remark == "both" and math.isnan(both.dice)
    assert found.cases("host", "A", "inner")["case_0"].dice == 0.0
    assert found.cases("host", "A", "inner")["case_0"].remark == "reference"
    one = found.cases("joined", "A", "inner")["case_1"]
    assert (one.dice, one.surface_dice, one.remark) == (0.0, 0.0, "prediction")
    assert one.hd95 == pytest.approx(math.hypot(40 * 1.0, 48 * 0.5))
    summary = found.summary("joined", "A", "inner")
    assert (summary.n, summary.cases, summary.one_sided) == (2, 3, 1)
    assert found.test("joined", "A", "inner").n == 2
    assert any("A: 3 cases: too few" in line for line in found.remarks)


def test_a_label_that_a_model_lacks_and_one_that_is_not_annotated(files):
    """Neither is a failure, and no mean over fewer labels stands beside means over all."""
    (files.model("joined") / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cortex": 1}}))
    (files.party("B") / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "inner": 2},
                                                               "file_ending": ".nii.gz"}))
    (files.model("host") / "dataset.json").write_text(json.dumps({"labels": made.LABELS}))
    found = evaluate(files.entries(), files.test_sets(), host="host", resamples=50)
    assert math.isnan(found.summary("joined", "A", "inner").mean)
    assert math.isnan(found.summary("joined", "A", FOREGROUND).mean)
    assert found.summary("joined", "A", "cortex").n == 3
    assert {s.remark for s in found.cases("joined", "A", "inner").values()} == {"the model lacks the label"}
    assert math.isnan(found.summary("host", "B", "cortex").mean)
    assert found.summary("host", "B", FOREGROUND).mean == found.summary("host", "B", "inner").mean


def test_regions_and_ignore_as_nnunet(files, tmp_path, thread_pools):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    content = {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2],
               "file_ending": ".nii.gz"}
    for party in "AB":
        (files.party(party) / "dataset.json").write_text(json.dumps(content))
    reference = made.disc((1, 40, 48), (18, 22), 9)
    reference[:, :14] = 3
    case(files.party("A") / "labelsTs", "case_0", reference)
    found = evaluate(files.entries(), files.test_sets(), resamples=50)
    summary = compute_metrics_on_folder(
        str(files.party("A") / "labelsTs"), str(files.model("joined") / "A"), None, SimpleITKIO(), ".nii.gz",
        [(1, 2), (2,)], ignore_label=3, num_processes=1)
    for row in summary["metric_per_case"]:
        name = Path(row["reference_file"]).name[:-len(".nii.gz")]
        for label, values in (("whole", (1, 2)), ("core", (2,))):
            assert found.cases("joined", "A", label)[name].dice == row["metrics"][values]["Dice"]


def test_what_is_remarked(files):
    voxels = made.disc((1, 40, 48), (18, 22), 9)
    voxels[0, 0, 0] = 7
    case(files.model("joined") / "A", "case_0", voxels, (999.0, 1.0, 1.0))
    found = evaluate(files.entries(), files.test_sets(), resamples=50)
    assert any("joined predicts value 7 in case_0.nii.gz" in line for line in found.remarks)
    assert any("joined on A lie elsewhere" in line and "voxel spacing" in line for line in found.remarks)


@pytest.fixture
def refused(files):
    """`refused(text)`: `evaluate` refuses with a line that holds the text, and writes nothing."""
    def refuse(said, models=None, datasets=None, **options):
        before = stitched_model.tree(files.root)
        with pytest.raises(StitchError) as caught:
            evaluate(files.entries() if models is None else models, files.test_sets() if datasets is None else datasets,
                     **{"resamples": 50, **options})
        assert said in str(caught.value) and "\n" not in str(caught.value)
        assert stitched_model.tree(files.root) == before
    return refuse


def test_bad_names(refused, files):
    refused("at least one model", models=[])
    refused("at least one", datasets=[])
    refused("-host nobody is not one of host, joined", host="nobody")
    refused("-own C is not one of A, B", own="C")
    refused("model HOST is named twice", models=[*files.entries(), ModelEntry("HOST", str(files.root))])
    refused("tolerance -1", tolerance=-1.0)


def test_bad_folders(refused, files):
    refused("nowhere does not exist", models=[ModelEntry("x", str(files.root / "nowhere"))])
    refused("nowhere does not exist", datasets=[TestSet("A", str(files.root / "nowhere"))])
    refused("so it has no mode host", models=[ModelEntry("x", str(files.model("host")), "host")])
    refused("no trained model folder", models=[ModelEntry("x", str(files.party("A")))])
    (files.root / "empty").mkdir()
    refused("holds no image file", datasets=[TestSet("A", str(files.root / "empty"))])


def test_missing_prediction(refused, files):
    (files.model("joined") / "B" / "case_1.nii.gz").unlink()
    refused("model joined has no prediction of case case_1 of dataset B")


def test_shapes_that_differ(refused, files):
    case(files.model("joined") / "B", "case_1", np.zeros((1, 40, 40), np.uint8))
    refused("1 x 40 x 40")


def test_files_that_are_no_segmentation(refused, files):
    path = files.model("joined") / "A" / "case_1.nii.gz"
    case(files.model("joined") / "A", "case_1", np.full((1, 40, 48), 0.5, np.float32))
    refused("between whole numbers")
    path.write_bytes(b"no image")
    refused(f"{path} cannot be read")
    shutil.copy(path, files.party("A") / "labelsTs" / "case_0.nii.gz")
    refused("case_0.nii.gz cannot be read")


def test_a_picture_in_colour_is_no_segmentation():
    reader = SimpleNamespace(read_seg=lambda path: (np.zeros((3, 1, 4, 4)), {"spacing": (999, 1, 1)}))
    with pytest.raises(StitchError, match="x.png has 3 channels"):
        read_segmentation("x.png", reader)


def test_labels_that_contradict_each_other(refused, files):
    (files.model("joined") / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cortex": 2}}))
    refused("label cortex is 2 in model joined and 1 in dataset A")
    (files.model("joined") / "dataset.json").write_text("{")
    refused("not readable JSON")
