"""What makes a model: `stitch`, `distill`, `adapt` and `merge`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nnunetv2_stitch.api import silent
from nnunetv2_stitch.bridging.names import NameMaps
from nnunetv2_stitch.devices import AUTO, find_device
from nnunetv2_stitch.distillation import DistillRequest, DistillResult
from nnunetv2_stitch.distillation import distill as run_distillation
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.merging.run import MergeRequest, MergeResult, merge_guided
from nnunetv2_stitch.parties.trust import trusting
from nnunetv2_stitch.pipeline import Request, StitchResult, train_stitch
from nnunetv2_stitch.training import AdaptRequest, AdaptResult, adapt_party

if TYPE_CHECKING:
    import torch

Say = Callable[[str], None]


def stitch(
    dataset_a: str | int | None = None, dataset_b: str | int | None = None, *,
    more: Sequence[str | int | Partner] = Request.more, model_a: str | None = Request.model_a,
    model_b: str | None = Request.model_b, names: NameMaps = Request.names,
    configuration: str | None = Request.configuration, folds: Sequence[int | str] | None = Request.folds,
    trainer_a: str | None = Request.trainer_a, trainer_b: str | None = Request.trainer_b,
    plans_a: str | None = Request.plans_a, plans_b: str | None = Request.plans_b,
    fold_b: int | str | None = Request.fold_b, checkpoint_name: str = Request.checkpoint_name,
    checkpoint_a: str | None = Request.checkpoint_a, checkpoint_b: str | None = Request.checkpoint_b,
    fit: str = Request.fit, positions: str | Sequence[int] = Request.positions, rule: str | None = None,
    tolerance: float = Request.tolerance, search_steps: int = Request.search_steps,
    position: int | float | Sequence[int] | None = Request.position, output: str = Request.output,
    combine: str = Request.combine, gate: bool = Request.gate, epochs: int | None = Request.epochs,
    iterations: int | None = Request.iterations, plans_name: str = Request.plans_name,
    seed: int | None = Request.seed, checkpoint_segments: int | str = Request.checkpoint_segments,
    positions_per_pass: int | None = Request.positions_per_pass, half_targets: bool = Request.half_targets,
    device: str | torch.device = AUTO, num_gpus: int = 1, continue_training: bool = False,
    only_validation: bool = False, only_selection: bool = False, sweeps: Sequence[str] = (), prefer: str = "balanced",
    save_probabilities: bool = False, trust: bool = False, progress: bool = True, say: Say = silent,
) -> StitchResult:
    """Stitch trained nnU-Nets into one: what `nnUNetv2_train_stitch` does.

    Args:
        dataset_a: the host, by dataset name or id: its images, plans and folds are used. None where `model_a` names it.
        dataset_b: the partner, of which only the model is read. None where `model_b` names it.
        more: further partners, by dataset or as `pipeline.Partner`.
        model_a: the host's model folder, where it is not in nnUNet_results.
        model_b: the partner's model, a folder or a zip as it was sent.
        names: labels and channels that the partner names otherwise.
        configuration: None for the one that both are trained in.
        folds: of the host; None for all that are trained.
        trainer_a, plans_a: of the host's model; None for the only ones there are.
        trainer_b, plans_b: of the partner's model.
        fold_b: the partner's fold for all folds of the host; None for the same fold, else `all`, else its first.
        checkpoint_name: of all parents, but those with one of their own.
        checkpoint_a, checkpoint_b: of one parent.
        fit: how stitches are fitted: `double_batched`, `direct` (closed form) or `task`.
        positions: which layers get stitches: `all`, `blocks` or a list.
        rule: how the position is chosen: `1`, `2`, `3`, `loo`, `retain`, `guided`. None for `3` with a
            `position`, `retain` with a `gate`, else `2`.
        tolerance: of rule `retain`, in standard errors over cases.
        search_steps: of rule `guided`, a batch each.
        position: by index, one for each partner, or by progress in the host from 0.0 to 1.0.
        output: whose head answers: `ensemble`, `host`, `partner`, `partner2`, ...
        combine: what an ensemble averages: `probabilities` or `logits`.
        gate: give each image its shares of the parties.
        epochs: None for 50; direct fitting always takes one.
        iterations: per epoch; None for nnU-Net's.
        plans_name: of the plans that are written.
        seed: recorded in the plans; None for 12345.
        checkpoint_segments: pieces that are recomputed in the backward pass, to save memory: a number, or `auto`.
        positions_per_pass: stitches at so many positions in a training step; None for all.
        half_targets: bfloat16 for what is kept of the reference stream.
        device: `auto` for cuda, mps or the cpu, the first that is there.
        num_gpus: of this machine (DDP).
        continue_training: go on after an interruption.
        only_validation: only repeat the validation of trained folds.
        only_selection: train nothing, choose the position again.
        sweeps: with `only_selection`: what partners measured, files of `nnUNetv2_sweep_stitched`.
        prefer: with `sweeps`: `own`, `balanced` or `partner`.
        save_probabilities: keep the validation's, for `nnUNetv2_find_best_configuration`.
        trust: let checkpoints run code, as stock nnU-Net does.
        progress: show progress bars.
        say: receives one line per step.

    Raises:
        StitchError: bad input, before anything is written.

    Example:
        >>> result = ns.stitch("Dataset001_A", "Dataset002_B", folds=[0], say=print)
        >>> result.model_folder, result.position
    """
    with trusting(trust):
        return train_stitch(
            dataset_a, dataset_b, *more, model_a=model_a, model_b=model_b, names=names, configuration=configuration,
            folds=folds, trainer_a=trainer_a, trainer_b=trainer_b, plans_a=plans_a, plans_b=plans_b, fold_b=fold_b,
            checkpoint_name=checkpoint_name, checkpoint_a=checkpoint_a, checkpoint_b=checkpoint_b, fit=fit,
            positions=positions, rule=rule, tolerance=tolerance,
            search_steps=search_steps, position=position, output=output, combine=combine, gate=gate, epochs=epochs,
            iterations=iterations, plans_name=plans_name, seed=seed, checkpoint_segments=checkpoint_segments,
            positions_per_pass=positions_per_pass, half_targets=half_targets, device=find_device(device),
            num_gpus=num_gpus, continue_training=continue_training, only_validation=only_validation,
            only_selection=only_selection, sweeps=sweeps, prefer=prefer, save_probabilities=save_probabilities,
            progress=progress, say=say)


def distill(
    teacher: str, dataset: str | int, *, configuration: str | None = DistillRequest.configuration,
    folds: Sequence[int | str] | None = DistillRequest.folds, student: str | None = DistillRequest.student,
    unlabelled: str | None = DistillRequest.unlabelled, start: str | None = DistillRequest.start,
    weight: float | None = DistillRequest.weight, epochs: int | None = DistillRequest.epochs,
    iterations: int | None = DistillRequest.iterations, plans_name: str = DistillRequest.plans_name,
    seed: int | None = DistillRequest.seed, device: str | torch.device = AUTO, continue_training: bool = False,
    validate: bool = True, trust: bool = False, progress: bool = True, say: Say = silent,
) -> DistillResult:
    """Teach one ordinary nnU-Net what a stitched ensemble knows: what `nnUNetv2_distill_stitched` does. With
    `continue_training` arguments that are left out are as they were when it was begun.

    Args:
        teacher: model folder of the stitched ensemble.
        dataset: the host's, by name or id, preprocessed here.
        configuration: of the student; None for the teacher's.
        folds: each is taught by the teacher's fold of that name; None for all that the teacher has.
        student: plans of the student: `host`, or others of this dataset with the same preprocessing. None for `host`.
        unlabelled: a folder of images without labels that take part.
        start: `host` or `scratch`; None for the host's weights where the student has its network.
        weight: of the teacher's term beside nnU-Net's loss on labels; 0 trains without teacher. None for 1.
        epochs, iterations: None for nnU-Net's.
        plans_name: of the plans that are written.
        seed: recorded beside the weights; None for 12345.
        validate: predict each fold's validation cases at the end, and write `report.html`.
        device, continue_training, trust, progress, say: see `stitch`.

    Raises:
        StitchError: bad input, before anything is written; or an image without labels that cannot be read.

    Example:
        >>> result = ns.distill(stitched.model_folder, "Dataset001_A", epochs=100)
    """
    with trusting(trust):
        return run_distillation(
            teacher, dataset, device=find_device(device), continue_training=continue_training, validate=validate,
            progress=progress, say=say, configuration=configuration, folds=folds, student=student,
            unlabelled=unlabelled, start=start, weight=weight, epochs=epochs, iterations=iterations,
            plans_name=plans_name, seed=seed)


def adapt(
    dataset: str | int, partner: str | Partner, *, configuration: str | None = AdaptRequest.configuration,
    folds: Sequence[int | str] | None = AdaptRequest.folds, trainer_a: str | None = AdaptRequest.trainer_a,
    plans_a: str | None = AdaptRequest.plans_a, epochs: int | None = AdaptRequest.epochs,
    iterations: int | None = AdaptRequest.iterations, rate: float | None = AdaptRequest.rate,
    plans_name: str = AdaptRequest.plans_name, tolerance: float | None = AdaptRequest.tolerance,
    alpha: float | None = AdaptRequest.alpha,
    seed: int | None = AdaptRequest.seed, device: str | torch.device = AUTO, continue_training: bool = False,
    validate: bool = True, trust: bool = False, progress: bool = True, say: Say = silent,
) -> AdaptResult:
    """Train a partner's model on with your own images, and move it back towards what it was: what
    `nnUNetv2_adapt_party` does. With `continue_training` arguments that are left out are as they were when it was
    begun.

    Args:
        dataset: yours, by name or id.
        partner: its model, a folder or a zip; or `pipeline.Partner`, which also names its dataset, fold and checkpoint,
            and what it calls labels and channels.
        configuration: None for the partner's.
        folds: None for those of your own model, else the partner's.
        trainer_a, plans_a: of your own model, which is compared with; None for the only ones there are.
        epochs: of the training; None for 100.
        iterations: per epoch; None for nnU-Net's.
        rate: learning rate at the beginning, falling to zero; None for 0.001.
        plans_name: of the plans that are written.
        tolerance: how much worse than your own model the result may be on your validation cases and count as as good,
            in standard errors; None for 1.
        alpha: point of the line, 0 for the partner, 1 for the partner trained on; None to choose it by retention.
        seed: recorded beside the weights; None for 12345.
        validate: predict each fold's validation cases with the result, and write `report.html`.
        device, continue_training, trust, progress, say: see `stitch`.

    Raises:
        StitchError: bad input, before anything is written; images that nnU-Net cannot preprocess; or validation cases
            without any label.

    Example:
        >>> result = ns.adapt("Dataset001_A", "b.zip")
        >>> result.alpha, result.reason
    """
    with trusting(trust):
        return adapt_party(
            dataset, partner, device=find_device(device), continue_training=continue_training, validate=validate,
            progress=progress, say=say, configuration=configuration, folds=folds, trainer_a=trainer_a,
            plans_a=plans_a, epochs=epochs, iterations=iterations, rate=rate, plans_name=plans_name,
            tolerance=tolerance, alpha=alpha, seed=seed)


def merge(
    models: Sequence[str], dataset: str | int, configuration: str, fold: int | str, name: str, *,
    base: str | None = MergeRequest.base, granularity: str = MergeRequest.granularity,
    search: str = MergeRequest.search, steps: int = MergeRequest.steps, rate: float = MergeRequest.rate,
    surrogate: str = MergeRequest.surrogate, plans_name: str | None = MergeRequest.plans_name,
    checkpoint_name: str | Sequence[str] = MergeRequest.checkpoint_name, seed: int = MergeRequest.seed,
    device: str | torch.device = AUTO, trust: bool = False, say: Say = silent,
) -> MergeResult:
    """Merge trained nnU-Nets of one architecture and one common start into one: what `nnUNetv2_merge_party` does.

    Args:
        models: two or more, folders or zips.
        dataset: yours, by name or id, preprocessed with the models' plans.
        configuration: e.g. `2d`.
        fold: of the dataset: whose cases train and validate. Models take the same fold, else `all`, else their first.
        name: what the result's plans are called.
        base: checkpoint that all models started from; None for their mean.
        granularity: what has a coefficient of its own in each model: `model`, `stage` or `tensor`.
        search: `gradient`, or `cmaes`, which needs the package cma.
        steps: of the search.
        rate: learning rate of the coefficients (cmaes: first standard deviation).
        surrogate: the loss: `task`, `kl`, or `auto`.
        plans_name: plans your data were preprocessed with; None for the models'.
        checkpoint_name: of all models, or one for each.
        seed: recorded in merge.json.
        device, trust, say: see `stitch`.

    Raises:
        StitchError: bad input, before anything is written.

    Example:
        >>> result = ns.merge(["MODEL_A", "b.zip"], "Dataset001_A", "2d", 0, "nnUNetMergedPlans", say=print)
    """
    request = MergeRequest(models, dataset, configuration, fold, name, base, granularity, search, steps, rate,
                           surrogate, plans_name, checkpoint_name, seed)
    with trusting(trust):
        return merge_guided(request, find_device(device), say)
