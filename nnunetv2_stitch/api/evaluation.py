"""What measures models: `compare` and `evaluate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nnunetv2_stitch.api import silent
from nnunetv2_stitch.baselines.compare import CompareResult
from nnunetv2_stitch.baselines.compare import compare as run_comparison
from nnunetv2_stitch.bridging.names import NameMaps
from nnunetv2_stitch.devices import AUTO, find_device
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.comparison import Comparison
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet, is_model_folder
from nnunetv2_stitch.evaluation.evaluate import evaluate as run_evaluation
from nnunetv2_stitch.evaluation.labels import read_labels
from nnunetv2_stitch.evaluation.output import require_writable, write_comparison
from nnunetv2_stitch.parties.trust import trusting
from nnunetv2_stitch.pipeline import Request
from nnunetv2_stitch.stitching.plans import Training

if TYPE_CHECKING:
    import torch

Say = Callable[[str], None]


def compare(
    dataset_a: str | int | None = None, dataset_b: str | int | None = None, *,
    folder: str | None = None, test_sets: Mapping[str, str] | None = None, unseen: Mapping[str, str] | None = None,
    rows: Sequence[str] | None = None,
    model_a: str | None = Request.model_a, model_b: str | None = Request.model_b, names: NameMaps = Request.names,
    configuration: str | None = Request.configuration, folds: Sequence[int | str] | None = Request.folds,
    trainer_a: str | None = Request.trainer_a, trainer_b: str | None = Request.trainer_b,
    plans_a: str | None = Request.plans_a, plans_b: str | None = Request.plans_b,
    fold_b: int | str | None = Request.fold_b, checkpoint_name: str = Request.checkpoint_name,
    checkpoint_a: str | None = Request.checkpoint_a, checkpoint_b: str | None = Request.checkpoint_b,
    positions: str | Sequence[int] = Request.positions, epochs: int | None = Request.epochs,
    iterations: int | None = Request.iterations, plans_name: str = Request.plans_name, seed: int = Training.seed,
    baseline_epochs: int | None = None, baseline_iterations: int | None = None, tolerance: float | None = None,
    worst: int = 3, tta: bool = True, device: str | torch.device = AUTO, resume: bool = False, trust: bool = False,
    progress: bool = True, say: Say = silent,
) -> CompareResult:
    """Compare stitching with what else could be done, and write tables, figures and a page: what
    `nnUNetv2_compare_stitched` does.

    Args:
        dataset_a, dataset_b: host and partner; None where `model_a` or `model_b` names one.
        folder: for predictions, tables, figures and the page; None for `comparison_with_<B>` beside A's models.
        test_sets: name -> nnU-Net raw dataset with imagesTs and labelsTs, the host's first; None for those of A and B.
        unseen: the same of hospitals that are no party.
        rows: keys of the rows to make; None for all.
        model_a, model_b, names, configuration, folds, trainer_a, trainer_b, plans_a, plans_b, fold_b: see `stitch`.
        checkpoint_name, checkpoint_a, checkpoint_b: see `stitch`.
        positions, epochs, iterations, plans_name, seed: of the stitches, see `stitch`.
        baseline_epochs, baseline_iterations: of what is trained beside; None for the parents'.
        tolerance: of the surface Dice, in mm; None for one voxel.
        worst: how many of each party's worst cases are shown.
        tta: mirror when predicting.
        resume: go on with an interrupted comparison.
        device, trust, progress, say: see `stitch`.

    Raises:
        StitchError: bad input, before anything is written; or a row that could not be made.

    Example:
        >>> result = ns.compare("Dataset001_A", "Dataset002_B", rows=["plain_ensemble", "stitched"])
        >>> result.comparison.summary("A alone", "Dataset001_A", result.comparison.labels.main).mean
    """
    with trusting(trust):
        result = run_comparison(
            dataset_a, dataset_b, folder, test_sets, rows, unseen=unseen, device=find_device(device), resume=resume,
            progress=progress, baseline_epochs=baseline_epochs, baseline_iterations=baseline_iterations, tta=tta,
            tolerance=tolerance, say=say, model_a=model_a, model_b=model_b, names=names, configuration=configuration,
            folds=folds, trainer_a=trainer_a, trainer_b=trainer_b, plans_a=plans_a, plans_b=plans_b, fold_b=fold_b,
            checkpoint_name=checkpoint_name, checkpoint_a=checkpoint_a, checkpoint_b=checkpoint_b,
            positions=positions, epochs=epochs, iterations=iterations, plans_name=plans_name, seed=seed)
        write_comparison(result.comparison, result.folder, worst, say)
    return result


def evaluate(
    models: Mapping[str, str] | Sequence[ModelEntry], datasets: Mapping[str, str] | Sequence[TestSet], *,
    unseen: Mapping[str, str] | None = None, host: str | None = None, own: str | None = None,
    output: str | None = None, tolerance: float | None = None, dataset_json: str | None = None,
    folds: Sequence[int | str] | None = None, checkpoint_name: str = Request.checkpoint_name,
    device: str | torch.device = AUTO, tta: bool = True, worst: int = 3, continue_prediction: bool = False,
    seed: int = Training.seed, trust: bool = False, progress: bool = True, say: Say = silent,
) -> Comparison:
    """Compare models on the test sets of several parties: what `nnUNetv2_evaluate_stitched` does.

    Args:
        models: name -> trained model folder (`FOLDER@host`, `@partner`, `@ensemble` for how a stitched one answers), or
            folder of predictions; or `evaluation.entries.ModelEntry`.
        datasets: name -> nnU-Net raw dataset, or folder with images and labels; or `evaluation.entries.TestSet`.
        unseen: as `datasets`, of hospitals that are no party.
        host: the model that is the host alone; None for the first.
        own: the dataset with the host's own cases; None for the first.
        output: where predictions of model folders, tables, figures and the page go. None: nothing is written, which is
            enough for predictions made elsewhere.
        tolerance: of the surface Dice, in mm; None for one voxel, the largest over datasets of the median in-plane
            spacing.
        dataset_json: a file with the labels, where neither models nor datasets have one.
        folds: of the models; None for all that each has trained.
        checkpoint_name: of the models.
        tta: mirror when predicting.
        worst: how many of each party's worst cases are shown.
        continue_prediction: keep what the same models have predicted already.
        seed: of the bootstrap.
        device, trust, progress, say: see `stitch`.

    Raises:
        StitchError: a name taken twice or unknown, labels that contradict each other, a missing or unreadable file, a
            case without a prediction, shapes that differ, or a model that cannot be used.

    Example:
        >>> models = {"A alone": "predictions/a", "stitched": "predictions/s"}
        >>> comparison = ns.evaluate(models, {"A": "raw/Dataset001_A"})
        >>> comparison.summary("stitched", "A", comparison.labels.main).mean
    """
    models = [ModelEntry.parse(f"{n}={f}") for n, f in models.items()] if isinstance(models, Mapping) else models
    datasets = [TestSet.parse(f"{n}={f}") for n, f in datasets.items()] if isinstance(datasets, Mapping) else datasets
    datasets = [*datasets, *(TestSet.parse(f"{n}={f}", unseen=True) for n, f in (unseen or {}).items())]
    predicted = [m.name for m in models if m.folder and is_model_folder(m.folder)]
    if output is not None:
        require_writable(output)
    elif predicted:
        raise StitchError(f"{predicted[0]} is a trained model, whose predictions need a place: give output=FOLDER")
    with trusting(trust):
        comparison = run_evaluation(
            models, datasets, host=host, own=own, output=output, tolerance=tolerance,
            labels=None if dataset_json is None else read_labels(dataset_json), folds=folds,
            checkpoint_name=checkpoint_name, device=find_device(device) if predicted else None, mirroring=tta,
            continue_prediction=continue_prediction, seed=seed, progress=progress, say=say)
    if output is not None:
        write_comparison(comparison, os.path.abspath(output), worst, say)
    return comparison
