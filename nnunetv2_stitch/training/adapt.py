"""Adapt a partner's network to the host's images in every fold, choose one point of the line, and validate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.evaluation.result_page import remove_page
from nnunetv2_stitch.exchange.manifest import licence_of
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.folders import folds_in, without_places
from nnunetv2_stitch.parties.datasets import data_digest
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.provenance import Provenance
from nnunetv2_stitch.training.adapt_choice import CASES_FILE, FoldScores, choose, score_fold
from nnunetv2_stitch.training.adapt_job import AdaptJob, AdaptRequest, prepare
from nnunetv2_stitch.training.adapt_output import known, write_adapted
from nnunetv2_stitch.training.adapt_page import write_adapted_page
from nnunetv2_stitch.training.adapt_plans import preprocess
from nnunetv2_stitch.training.adapt_steps import next_steps
from nnunetv2_stitch.training.folds import train_folds, trained, validate_fold
from nnunetv2_stitch.training.job import TrainingResult, require_data
from nnunetv2_stitch.training.line import ALPHAS, TRAINER


@dataclass(frozen=True, kw_only=True)
class AdaptResult(TrainingResult):
    """An adapted partner. `model_folder`: the ordinary model at `alpha`; `training_folder`: the one that was trained,
    with both ends of the line. `reached`: whether it is as good as the host's own model on the host's validation cases,
    None where there is none. `folds`: all that are adapted. `mean`: own Dice by alpha, on the cases on which the
    host's own model is known, if there are such; `host_alone`: that of this model, None where there is none."""

    training_folder: str
    alpha: float
    reason: str
    reached: bool | None
    mean: dict[float, float | None]
    host_alone: float | None
    files: list[str]


def adapt_party(dataset: str | int, partner: Partner | str, *, device: str | torch.device = "cuda",
                continue_training: bool = False, validate: bool = True, progress: bool = True,
                say: Callable[[str], None] = lambda line: None, **request) -> AdaptResult:
    """Train a partner's finished network on with the host's images, and move it back along the line of weights:
    half-way, to another point that is asked for, or to one that is chosen by retention.

    Args:
        **request: the other fields of `AdaptRequest`. For these and all other arguments see `api.training.adapt`.

    Raises:
        StitchError: bad input, before anything is written; images that nnU-Net cannot preprocess; or validation cases
            without any label.
    """
    partner = partner if isinstance(partner, Partner) else Partner(model=partner)
    return adapt(prepare(AdaptRequest(dataset, partner, **request), continue_training), torch.device(device),
                 continue_training, validate, progress, say)


@our_trainers_known()
def adapt(job: AdaptJob, device: torch.device, continue_training: bool = False, validate: bool = True,
          progress: bool = True, say: Callable[[str], None] = lambda line: None) -> AdaptResult:
    """As `adapt_party`, of a job that is prepared.

    Args:
        device, continue_training, validate, progress, say: see `adapt_party`.
    """
    for line in job.remarks:
        say(line)
    with trained(job, device, continue_training, say, "training the partner on with the host's images",
                 _preprocessed(progress, say)) as (job, _):
        # One alpha for all folds; of several commands the last one to end finds the scores of all others.
        done = set(folds_in(job.model_folder, CASES_FILE)) & set(folds_in(job.model_folder, FINAL))
        folds = sorted(done.union(job.folds), key=str)
        scores = [score_fold(job, f, device, progress, say) for f in folds]
        record = adaptation_record(job, scores)
        say(f"alpha {record['alpha']:g}: {record['reason']}")
        files = write_adapted(job.result_folder, job.model_folder, job.plans, job.dataset_json, folds, record, device)
        dice = {f: validate_fold(job, f, device, say, trainer=TRAINER) for f in folds} if validate else {}
        result = AdaptResult.of(
            job, dice, model_folder=job.result_folder, training_folder=job.model_folder, trainer=TRAINER, folds=folds,
            alpha=record["alpha"], reason=record["reason"], reached=record["reached"],
            mean=dict(zip(record["alphas"], record["mean"])), host_alone=record["host_alone"]["mean"],
            remarks=record["remarks"], files=files)
        result = replace(result, commands=next_steps(job, result, device))
        if validate:
            write_adapted_page(job, result, record, device, say)
        else:
            remove_page(job.result_folder)
    return result


@our_trainers_known()
def train_on(job: AdaptJob, device: torch.device, continue_training: bool = False, progress: bool = True,
             say: Callable[[str], None] = lambda line: None, doing: str = "training on") -> str:
    """The training alone: no point of the line is tried or written.

    Args:
        device, continue_training, progress, say: see `adapt_party`.
        doing: what is said before a fold.

    Returns:
        The folder with both ends; it is an ordinary model folder of what came out, alpha 1.
    """
    return train_folds(job, device, continue_training, say, doing, _preprocessed(progress, say))[0].model_folder


def _preprocessed(progress: bool, say: Callable[[str], None]) -> Callable[[AdaptJob], None]:
    def data(job: AdaptJob) -> None:
        if job.waits_for_data:
            say(f"preprocessing the images of {job.dataset} as the partner's plans say")
            preprocess(job.preprocessed_folder, job.plans, job.configuration, progress)
            require_data(job)

    return data


def provenance(job: AdaptJob, folds: Sequence[int | str], hosts: Mapping[str, str | None]) -> Provenance:
    """What the adapted folds are made of, and what alpha was chosen by. `hosts`: by fold, sha256 of the host's own
    checkpoint, None where it took no part."""
    settings = {k: v for k, v in job.record.terms().items() if k not in ("model", "seed")}
    return Provenance(job.record.kind, {
        "partner": {f: entry["sha256"] for f, entry in job.record.folds.items() if f in set(map(str, folds))},
        "data": data_digest(job.preprocessed_folder, job.data_identifier),
        "settings": {**settings, "alphas": list(ALPHAS), "tolerance": job.request.tolerance,
                     "alpha": job.request.alpha},
        "seed": job.record.seed, "host": dict(hosts)})


def adaptation_record(job: AdaptJob, scores: Sequence[FoldScores]) -> dict:
    """Contents of adapt.json. No path and no case: it travels with the model. `mean`, by alpha, is of the cases on
    which the host alone is known, if there are such, so that both can stand side by side."""
    found, dice, host = choose(scores, job.request.tolerance, job.request.alpha)
    beside = dice if host is None else dice[:, np.isfinite(host)]
    folds = {str(s.fold): {"cases": s.dice.shape[1], "mean": [known(row)[0] for row in s.dice],
                           "host_alone": None if s.host is None else known(s.host)[0]} for s in scores}
    remarks = [*job.remarks, *(f"Fold {s.fold} is not compared with the host alone, and its cases are left out "
                               f"beside it: {s.why}." for s in scores if s.why)]
    made_from = provenance(job, list(folds), {str(s.fold): s.made_of["host"] for s in scores})
    start = made_from.made_from["partner"]
    return {
        "alpha": ALPHAS[found.index], "reason": found.reason,
        "reached": None if host is None else found.reached, "tolerance": job.request.tolerance,
        "alphas": list(ALPHAS), "mean": [known(row)[0] for row in beside], "best": ALPHAS[found.best],
        "standard_errors": list(found.standard_errors), "folds": folds,
        "host_alone": dict(zip(("mean", "standard_error"), (None, None) if host is None else known(host))),
        "partner": {"dataset": job.partner.dataset_name, "model": job.partner.identifier,
                    "licence": licence_of(job.partner)},
        "start_sha256": start, "dataset": job.dataset, "configuration": job.configuration,
        "plans_name": job.plans_name, "remarks": [without_places(line) for line in remarks],
        **{k: getattr(job.record, k) for k in ("learning_rate", "seed", "num_epochs", "num_iterations_per_epoch")},
        **made_from.to_json()}
