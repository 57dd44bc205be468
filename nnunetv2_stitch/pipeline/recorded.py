"""What was said of a stitched model when its setting was chosen, read from its record: `--val` chooses nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.pipeline.deployment import deployed_gate, deployed_setting
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.pipeline.reporting import PARETO, SELECTION_FILE, StitchResult, figures_there, stitches_of
from nnunetv2_stitch.selection.pareto import Front, PartyScores
from nnunetv2_stitch.selection.partners_numbers import Choice
from nnunetv2_stitch.stitching.setting import Setting


def as_recorded(job: Job, others: Sequence[int | str] = ()) -> tuple[Job, StitchResult] | None:
    """The result of the choice that is deployed, and the job with what that was chosen by; None where the record is
    missing, damaged or of another choice than the deployed one.

    Args:
        others: further folds; those that are deployed by the same choice belong to the result.

    Raises:
        StitchError: a fold of the job is not deployed.
    """
    settings = {f: deployed_setting(job, f) for f in job.folds}
    try:
        record = read_json(os.path.join(job.model_folder, SELECTION_FILE))
        chosen = {f: Setting.from_json(record["settings"][str(f)]) for f in job.folds}
        if chosen != settings or not _same_gate(job, record):
            return None
        here = {str(f): f for f in (*job.folds, *(f for f in others if _is_deployed(job, f, record)))}
        if "stitches" in record and not stitches_of(job, here.values()).items() <= record["stitches"].items():
            return None  # records of earlier versions do not say
        folds = [here[name] for name in record["settings"] if name in here]  # in the order of the choice
        return _asked(job, record, chosen, folds), _result(job, record, folds)
    except (StitchError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _same_gate(job: Job, record: Mapping) -> bool:
    """Also where no gate was of any use, or none was asked for."""
    gate = record.get("gate")
    if gate is None or gate["chosen"] is None:
        return deployed_gate(job, job.folds[0]) is None
    told = {**gate["path"][gate["chosen"]], "wholly": gate["wholly"], "known": gate["partners_known"]}
    plans = read_json(job.plans_file)["configurations"][job.host.configuration]
    options = plans["architecture"]["arch_kwargs"].get("gate") or {}
    return told == {key: options.get(key) for key in told}


def _is_deployed(job: Job, fold: int | str, record: Mapping) -> bool:
    try:
        return deployed_setting(job, fold) == Setting.from_json(record["settings"][str(fold)])
    except (StitchError, KeyError):
        return False


def _asked(job: Job, record: Mapping, settings: Mapping[int | str, Setting], folds: Sequence[int | str]) -> Job:
    """With the request that chose, for the commands to copy; what it is trained with is checked already."""
    setting, by_rule = settings[job.folds[0]], record["rule"]
    position = tuple(setting.switches) if by_rule == "3" else None
    if position == tuple(job.fixed_positions):
        position = job.request.position  # in the words of this command
    request = replace(job.request, rule=None if by_rule == PARETO else by_rule, position=position,
                      output=setting.output, combine=setting.combine, gate="gate" in record)
    return replace(job, request=request, folds=list(folds))


def _result(job: Job, record: Mapping, folds: Sequence[int | str]) -> StitchResult:
    settings = {f: Setting.from_json(record["settings"][str(f)]) for f in folds}
    positions = {f: tuple(s.switches) for f, s in settings.items()}
    named = positions[folds[0]]
    table = [{k: math.nan if v is None else v for k, v in row.items()} for row in record["validation_dice"]]
    return StitchResult(
        model_folder=job.model_folder, dataset=job.host.dataset_name, configuration=job.host.configuration,
        trainer=job.trainer, plans_name=job.request.plans_name, folds=list(folds), positions=positions,
        position_names=[job.layout.position_name(p) for p in named], table=table, remarks=list(record["remarks"]),
        figures=figures_there(job), choices=tuple(_choice(c, named) for c in record.get("pareto", ())),
        weighted=any(s.is_weighted for s in settings.values()))


def _choice(value: Mapping, positions: Sequence[int]) -> Choice:
    """As `Choice.to_json` wrote it. What it remarks stands among the remarks of the whole."""
    parties = tuple(PartyScores(**{**p, "values": tuple(p["values"])}) for p in value["parties"])
    front = Front(tuple(value["positions"]), tuple(value["names"]), parties, tuple(value["on_front"]))
    position, *_ = (p for p in positions if p in front.positions)
    return Choice(position, value["prefer"], value["output"], front, tuple(value["files"]), ())
