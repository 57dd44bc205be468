"""A partner adapted inside nnU-Net's loop, and what comes out: an ordinary model that stock nnU-Net runs."""

import json
import shlex
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from adapting import NAME, adapt, final, same
from interrupting import interrupt_at
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from other_terms import ct, heads_swapped, transposed, turned
from pages import page_of, pictured
from partner_site import command
from stitched_model import read_segmentations, stock_alone, stock_prediction, tree

from nnunetv2_stitch.entrypoints import adapt_party as adapt_entry
from nnunetv2_stitch.entrypoints import train_stitch as train_stitch_entry
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.find import find_models
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.pipeline import Request
from nnunetv2_stitch.pipeline import prepare as prepare_stitching
from nnunetv2_stitch.pipeline.job import TRAINERS
from nnunetv2_stitch.training import adapt_party, adapted_state
from nnunetv2_stitch.training.adapt_steps import STITCHED
from nnunetv2_stitch.training.stock import train_network

pytestmark = pytest.mark.slow


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def change(model: Path, dataset=None, weights=None, plans=None) -> None:
    """The partner's model under other terms."""
    for name, changed in (("dataset.json", dataset), ("plans.json", plans)):
        if changed:
            contents = read_json(str(model / name))
            changed(contents)
            write_json(str(model / name), contents)
    for path in model.rglob("checkpoint_final.pth") if weights else ():
        checkpoint = load_checkpoint(str(path))
        checkpoint["network_weights"] = dict(checkpoint["network_weights"])
        weights(checkpoint["network_weights"])
        torch.save(checkpoint, path)


def test_an_adapted_partner_is_an_ordinary_model_of_the_host(world, tmp_path):
    model, host = world.model(world.partner), world.model(world.host)
    weights = load_checkpoint(str(model / "fold_0" / "checkpoint_final.pth"))["network_weights"]
    change(model, lambda d: d.update(labels={"background": 0, "b": 1, "a": 2}), heads_swapped)  # in another order
    before = tree(model, host)
    said = []
    result = adapt(world, validate=True, say=said.append)
    assert tree(model, host) == before
    assert "they are used as they are" in said[0]
    assert not (world.preprocessed / world.host.dataset / f"{NAME}_2d").exists()

    folder = Path(result.model_folder)
    assert folder.name == f"nnUNetTrainer__{NAME}__2d"
    assert "nnunetv2_stitch" not in (folder / "plans.json").read_text() + (folder / "dataset.json").read_text()
    assert str(world.root) not in "".join(p.read_text() for p in folder.glob("*.*") if p.suffix in (".json", ".md"))
    record = read_json(str(folder / "adapt.json"))
    assert record["alpha"] == result.alpha and len(record["mean"]) == len(record["alphas"]) == 13
    assert record["made_from"]["partner"] == record["start_sha256"] and (folder / "adapt.png").stat().st_size > 10_000
    assert "tr_0" not in json.dumps(record), "a record that travels names a case"
    page = page_of(folder)
    assert "A beside B: what is not the same" in page.text and "Along the line" in page.text
    assert len(pictured(page)) == 3 and "A alone, B alone, adapted" in pictured(page)[0]

    # The ends of the line, and the point that was chosen; the labels' order is the host's again.
    assert same(adapted_state(result.model_folder, 0, 0), weights)
    assert same(adapted_state(result.model_folder, 0, 1), final(result.training_folder))
    assert not same(adapted_state(result.model_folder, 0, 0), adapted_state(result.model_folder, 0, 1))
    assert same(final(result.model_folder), adapted_state(result.training_folder, 0, result.alpha))

    # Own Dice is that of stock nnU-Net's own prediction: of the result, and of the host alone.
    images, references = tmp_path / "images", tmp_path / "references"
    for out in (images, references):
        out.mkdir()
    raw = world.raw / world.host.dataset
    for case in read_json(str(world.preprocessed / world.host.dataset / "splits_final.json"))[0]["val"]:
        shutil.copy(raw / "imagesTr" / f"{case}_0000.nii.gz", images)
        shutil.copy(raw / "labelsTr" / f"{case}.nii.gz", references)
    found = read_json(str(Path(result.training_folder, "fold_0", "adapt_cases.json")))
    for model_folder, dice in ((folder, found["dice"][record["alphas"].index(record["alpha"])]), (host, found["host"])):
        predicted = stock_prediction(model_folder, images, tmp_path / f"predicted_{model_folder.name}", mirroring=False)
        compute_metrics_on_folder_simple(str(references), str(predicted), [1, 2], num_processes=1)
        metrics = read_json(str(predicted / "summary.json"))["metric_per_case"]
        cases = [np.nanmean([m["Dice"] for m in c["metrics"].values()]) for c in metrics]
        np.testing.assert_allclose(sorted(dice), sorted(cases), atol=2e-3)  # half precision decides few voxels

    # Stock nnU-Net alone runs it.
    stock_alone(folder, world.test_images(world.host), tmp_path / "out")
    assert len(read_segmentations(tmp_path / "out")) == 3
    summary = read_json(str(folder / "fold_0" / "validation" / "summary.json"))
    assert result.validation_dice == {0: summary["foreground_mean"]["Dice"]}

    # It is a partner where it is named, and no host unless it is.
    assert [m.path for m in find_models(world.host.dataset)] == [str(host)]
    job = prepare_stitching(Request(world.host.dataset, None, model_b=str(folder), folds=[0]))
    assert job.partners[0].path == str(folder)
    # Fold 0's model was trained on with fold 1's validation cases: only its own fold is stitched to it.
    assert prepare_stitching(Request(world.host.dataset, None, model_b=str(folder))).folds == [0]
    for asked in ({"folds": [0, 1]}, {"folds": [1], "fold_b": 0}):
        with pytest.raises(StitchError, match="its fold 0 has seen fold 1's validation cases; adapt fold 1 too"):
            prepare_stitching(Request(world.host.dataset, None, model_b=str(folder), **asked))
    with pytest.raises(StitchError, match="is the host's own model; name the partner's with -m_b"):
        adapt(world, host)
    export_party(read_model_folder(str(folder)), str(tmp_path / "adapted.zip"))
    export_pretrained_model(world.host.dataset, str(tmp_path / "stock.zip"), ("2d",), "nnUNetTrainer", NAME, (0,))
    assert not any("cases" in n for n in zipfile.ZipFile(tmp_path / "stock.zip").namelist())

    # The commands that its page shows, as they are typed.
    assert all(line in page.text for _, line in result.commands)
    typed = {what: shlex.split(line)[1:] for what, line in result.commands}
    beside = typed["Use it beside your own model: a gate chooses for each image"]
    args = train_stitch_entry.build_parser().parse_args(beside)
    job = prepare_stitching(Request(**train_stitch_entry.request_of(args)))
    assert job.request.gate and (job.host.path, job.partner.path, job.folds) == (str(host), str(folder), [0])
    command(adapt_entry, *typed["Another point of the line, without training again"])
    assert read_json(str(folder / "adapt.json"))["alpha"] == (0.7 if result.alpha == 0.3 else 0.3)

    # Where A was stitched before under the usual name, the command of the gate has another.
    assert STITCHED == (TRAINERS["direct"], Request.plans_name)
    before = world.results / world.host.dataset / f"{'__'.join(STITCHED)}__2d" / "fold_0"
    before.mkdir(parents=True)
    told = adapt(world, continue_training=True).commands
    assert [line for _, line in told if "-gate on" in line][0].endswith(" -o_p nnUNetStitchAdaptedPlans")
    shutil.rmtree(before.parent)

    # Everything repeats for a seed, and another tolerance chooses among what is there.
    again = adapt(world, plans_name="AgainPlans")
    assert (again.alpha, again.mean) == (result.alpha, result.mean)
    assert same(final(again.training_folder), final(result.training_folder))
    said.clear()
    most = adapt(world, plans_name="AgainPlans", continue_training=True, tolerance=1e9, say=said.append)
    assert "fold 0: trained before" in said and most.alpha == 0 and same(final(most.model_folder), weights)
    half = adapt(world, plans_name="AgainPlans", continue_training=True, alpha=0.5)
    assert (half.alpha, half.mean) == (0.5, result.mean) and half.reached is not None
    assert same(final(half.model_folder), adapted_state(half.training_folder, 0, 0.5))


def test_images_are_preprocessed_as_the_partner_wants_them_and_a_label_only_the_host_has_is_learned(world, capsys):
    model = world.model(world.partner)

    def one_label(weights):
        turned(weights)
        weights.update({k: v[:2] for k, v in weights.items() if ".seg_layers." in k})

    change(model, lambda d: d.update(labels={"background": 0, "a": 1}), one_label,
           lambda plans: (ct(20., 80., -150., 180.)(plans), transposed(plans)))
    zipped = str(model.with_name("sent.zip"))
    export_party(read_model_folder(str(model)), zipped)
    folder = world.preprocessed / world.host.dataset
    before = tree(folder)
    shutil.move(world.raw, world.raw.with_name("elsewhere"))
    with pytest.raises(StitchError, match="its images are not in nnUNet_raw"):
        adapt(world, zipped)
    assert tree(folder) == before
    shutil.move(world.raw.with_name("elsewhere"), world.raw)

    command(adapt_entry, world.host.dataset_id, "-m_b", zipped, "-f", 0, "-epochs", 1, "-iterations", 4, "-lr", 1e-2)
    told = capsys.readouterr().out
    result = world.results / world.host.dataset / f"nnUNetTrainer__{NAME}__2d"
    record = read_json(str(result / "adapt.json"))
    assert f"{record['alpha']:g}  " in told and "<- taken" in told and f"alpha {record['alpha']:g}: " in told
    predict = f"nnUNetv2_predict -i INPUT_FOLDER -o OUTPUT_FOLDER -d {world.host.dataset} -c 2d -tr nnUNetTrainer -p " \
              f"{NAME} -f 0"
    assert predict in told
    assert record["alpha"] == 0.5 and record["reached"] is not None
    assert ("it is as good as your own" if record["reached"] else "your own model is better") in told
    host = world.model(world.host)
    assert f"nnUNetv2_train_stitch -m_a {host} -m_b {result} -fit direct -gate on -f 0" in told
    plans = read_json(str(result / "plans.json"))
    configuration = plans["configurations"]["2d"]
    assert configuration["normalization_schemes"] == ["CTNormalization"] and plans["transpose_forward"] == [0, 2, 1]
    assert plans["foreground_intensity_properties_per_channel"]["0"]["std"] == 80
    assert configuration["data_identifier"] == f"{NAME}_2d" and not list(folder.glob(".unfinished*"))
    assert {k: v for k, v in tree(folder).items() if k in before} == before
    data = nnUNetDatasetBlosc2(str(folder / f"{NAME}_2d"))
    assert len(data.identifiers) == 10
    manager = PlansManager(plans)
    raw = world.raw / world.host.dataset
    expected = DefaultPreprocessor(verbose=False).run_case(
        [str(raw / "imagesTr" / "tr_000_0000.nii.gz")], str(raw / "labelsTr" / "tr_000.nii.gz"), manager,
        manager.get_configuration("2d"), read_json(str(folder / "dataset.json")))[0]
    np.testing.assert_array_equal(data.load_case("tr_000")[0][:], expected)

    start, end = (adapted_state(str(result), 0, alpha) for alpha in (0, 1))
    head = max(k for k in start if k.endswith("weight") and ".seg_layers." in k)
    assert start[head].shape[0] == 3 and (start[head][2] != end[head][2]).any()
    with pytest.raises(StitchError, match="was begun with -label_map"):
        from nnunetv2_stitch.bridging.names import NameMaps
        adapt_party(world.host.dataset, Partner(model=zipped, names=NameMaps({"a": "b"}, {})), device="cpu", folds=[0],
                    epochs=1, iterations=4, rate=1e-2, continue_training=True)


def test_going_on_after_an_interruption_and_one_alpha_for_all_folds(world):
    fold = world.results / world.host.dataset / f"nnUNetTrainerAdapted__{NAME}__2d" / "fold_0"
    with interrupt_at("Epoch 1", fold.parent), pytest.raises(KeyboardInterrupt):
        adapt(world, epochs=3, iterations=8)
    assert (fold / "checkpoint_start.pth").is_file() and not (fold / "checkpoint_final.pth").exists()
    with pytest.raises(StitchError, match="already holds fold 0; add --c"):
        adapt(world, epochs=3, iterations=8)
    with pytest.raises(StitchError, match="was begun with -iterations 8"):
        adapt(world, epochs=3, continue_training=True)
    result = adapt(world, epochs=3, iterations=8, continue_training=True)
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert len(checkpoint["logging"]["train_losses"]) == 3 and result.folds == [0]
    logs = "".join(p.read_text() for p in sorted(fold.glob("training_log_*.txt")))
    assert logs.count("Epoch 0") == 1, "what was trained before the interruption was thrown away"
    both = adapt(world, epochs=3, iterations=8, folds=[1])
    record = read_json(str(Path(both.model_folder, "adapt.json")))
    assert both.folds == [0, 1] and record["folds"].keys() == {"0", "1"}
    for number in (0, 1):
        assert same(final(both.model_folder, number), adapted_state(both.model_folder, number, both.alpha))

    # Kind: means of different cases side by side. A fold that the host lacks is left out beside the host alone.
    shutil.rmtree(world.model(world.host) / "fold_1")
    again = adapt(world, epochs=3, iterations=8, folds=[1], continue_training=True)
    record = read_json(str(Path(again.model_folder, "adapt.json")))
    shown = record["mean"][record["alphas"].index(again.alpha)]
    assert record["folds"]["1"]["host_alone"] is None and again.folds == [0, 1]
    assert (shown, again.host_alone) == (record["folds"]["0"]["mean"][record["alphas"].index(again.alpha)],
                                         record["folds"]["0"]["host_alone"])
    assert any("Fold 1 is not compared" in line for line in record["remarks"]) and str(world.root) not in str(record)


def test_statistics_of_batch_norm_fit_the_weights_between_the_ends(world):
    """A host without a model of its own, too: then alpha is chosen without one."""
    def with_batch_norm(plans):
        plans["plans_name"] = "BatchNormPlans"
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["norm_op"] = \
            "torch.nn.modules.batchnorm.BatchNorm2d"

    plans = read_json(str(world.preprocessed / world.partner.dataset / "nnUNetPlans.json"))
    with_batch_norm(plans)
    write_json(str(world.preprocessed / world.partner.dataset / "BatchNormPlans.json"), plans)
    train_network(world.partner.dataset, "2d", 0, "nnUNetTrainer", "BatchNormPlans", torch.device("cpu"), epochs=1,
                  iterations=4)
    partner = world.results / world.partner.dataset / "nnUNetTrainer__BatchNormPlans__2d"
    shutil.rmtree(world.model(world.host))
    result = adapt(world, partner)
    assert result.host_alone is None and any("no model of its own" in r for r in result.remarks)
    start, half, end = (adapted_state(result.model_folder, 0, alpha) for alpha in (0, 0.5, 1))
    statistic = next(k for k in half if k.endswith("running_var"))
    assert (half[statistic] - (start[statistic] + end[statistic]) / 2).abs().max() > 1e-3 * end[statistic].abs().max()
    assert same(half, adapted_state(result.model_folder, 0, 0.5))
    assert same(final(result.model_folder), adapted_state(result.model_folder, 0, result.alpha))


def test_regions_in_another_order(world):
    """What the host's labels are is in its dataset, in its own model, and in what is preprocessed."""
    ours = {"labels": {"background": 0, "whole": [1, 2], "b": 2}, "regions_class_order": [1, 2]}
    theirs = {"labels": {"background": 0, "b": 2, "whole": [1, 2]}, "regions_class_order": [2, 1]}
    folder, model = world.preprocessed / world.host.dataset, world.model(world.partner)
    dataset = read_json(str(folder / "dataset.json"))
    write_json(str(folder / "dataset.json"), {**dataset, **ours})
    shutil.rmtree(world.model(world.host))
    change(model, lambda d: d.update(theirs), lambda weights: weights.update(
        {k: v[1:] for k, v in weights.items() if ".seg_layers." in k}))
    before = load_checkpoint(str(model / "fold_0" / "checkpoint_final.pth"))["network_weights"]
    result = adapt(world, iterations=2)
    start = adapted_state(result.model_folder, 0, 0)
    for name, value in start.items():
        assert torch.equal(value, before[name].flip(0) if ".seg_layers." in name else before[name])
    assert all(0 <= mean <= 1 for mean in result.mean.values())
