"""What is there from earlier commands: whether it may be gone on with, and what of it must stay."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import is_writable, read_json, write_json
from nnunetv2_stitch.folders import FOLD, folds_in, stock_id
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.preprocessed import folds_without_foreground, require_trainable
from nnunetv2_stitch.pipeline.job import TRAINERS, Job
from nnunetv2_stitch.selection.dice import NothingToScore
from nnunetv2_stitch.selection.rules import GUIDED
from nnunetv2_stitch.stitching.network import CLASS_PATH
from nnunetv2_stitch.stitching.plans import ParentRecord, Stitching

BUDGET = {"num_epochs": ("-epochs", "epochs"), "num_iterations_per_epoch": ("-iterations", "iterations"),
          "seed": ("-seed", "seed"), "positions_per_pass": ("-positions_per_pass", "positions_per_pass")}


def previous_plans(plans_file: str) -> dict | None:
    if not os.path.isfile(plans_file):
        return None
    plans = read_json(plans_file)
    classes = [c.get("architecture", {}).get("network_class_name") for c in plans["configurations"].values()]
    if any(c != CLASS_PATH for c in classes):
        raise StitchError(f"{plans_file} holds other plans, not stitched ones; choose another name with -o_p")
    return plans


def closed_folder(job: Job) -> str | None:
    """The first of the job's folders that may not be written to."""
    return next((f for f in (job.preprocessed_folder, os.path.dirname(job.model_folder)) if not is_writable(f)), None)


def check_folders(job: Job, previous: dict | None, continue_training: bool) -> None:
    """Raises StitchError if data are missing, folders cannot be written to, or what is there does not go with the job.
    """
    check_what_is_there(job, previous, continue_training)
    if closed := closed_folder(job):
        raise StitchError(f"no permission to write into {closed}; change its permissions or the nnU-Net folders")


def check_what_is_there(job: Job, previous: dict | None, continue_training: bool) -> None:
    """The part of `check_folders` that needs no permission to write."""
    require_trainable(job.preprocessed_folder, job.host.configuration_manager.data_identifier, job.folds,
                      f"the host's data must be preprocessed here; run nnUNetv2_preprocess -d "
                      f"{stock_id(job.host.dataset_name)} -plans_name {job.host.plans_name} "
                      f"-c {job.host.configuration}")
    started = [f for f in job.folds if os.path.isdir(os.path.join(job.model_folder, f"fold_{f}"))]
    if started and not continue_training:
        raise StitchError(f"{job.model_folder} already holds fold {started[0]}; add --c to go on, -o_p NAME to keep it "
                          f"and make another, or delete it")
    check_earlier_folds(job, previous)


def check_earlier_folds(job: Job, previous: dict | None) -> None:
    """Raises StitchError where folds under the same name were made from something else."""
    _keep_other_folds(job, previous)
    _go_on_as_begun(job, previous)


def foreground_remarks(job: Job) -> list[str]:
    """What to say, before hours of training, of folds that cannot take part in choosing the position.

    Raises:
        NothingToScore: no fold can, or each must, and the rule chooses by Dice.
    """
    begun = folds_in(job.model_folder) if os.path.isdir(job.model_folder) else []
    folds = list(dict.fromkeys([*job.folds, *begun]))
    blind = folds_without_foreground(job.preprocessed_folder, job.host.configuration_manager.data_identifier, folds)
    if blind and job.request.rule != "3" and (len(blind) == len(folds) or job.request.rule == GUIDED):
        raise NothingToScore(f"the validation cases of fold {', '.join(map(str, blind))}",
                             "fix the position by hand with -position K")
    return [f"WARNING: the validation cases of fold {f} hold no foreground label, so it takes no part in choosing the "
            f"position, and nnU-Net writes NaN into its summary.json; check the labels and the splits"
            for f in job.folds if f in blind]


def begun_otherwise(job: Job) -> list[str]:
    """What to say where a training is to go on and there is none, but one of another fit: it was asked for without its
    -fit."""
    if os.path.isdir(job.model_folder) and folds_in(job.model_folder):
        return []
    place, name = os.path.split(job.model_folder)
    others = {fit: os.path.join(place, name.replace(job.trainer, trainer, 1)) for fit, trainer in TRAINERS.items()}
    return [f"WARNING: there is no training in {job.model_folder} to go on with, so a new one begins; {folder} was "
            f"begun with -fit {fit}: to go on with that, stop this and add it"
            for fit, folder in others.items() if os.path.isdir(folder) and folds_in(folder)]


def as_begun(job: Job, previous: dict | None) -> None:
    """What was not asked for is, in the job's plans, as the folds that are there were begun with."""
    before, new = _begun(job, previous), job.stitching
    if before:
        kept = {key: getattr(before.training, key) for key, (_, field) in BUDGET.items()
                if getattr(job.request, field) is None}
        replace(new, training=replace(new.training, **kept)).put_into(job.configuration)


def _go_on_as_begun(job: Job, previous: dict | None) -> None:
    """One plans file describes all folds of a model, so they have one length and one seed, however far they are."""
    before, new = _begun(job, previous), job.stitching
    for key, (flag, _) in BUDGET.items() if before else ():
        old, now = (getattr(found.training, key) for found in (before, new))
        if old != now:
            old, now = ("its default" if v is None else v for v in (old, now))
            raise StitchError(f"{_first_fold(job)} was begun with {flag} {old}, not {now}; go on with the same, or use "
                              f"-o_p NAME for another model")


def require_same_data(job: Job, previous: dict | None) -> None:
    """Raises StitchError where folds under the same name were begun with other data than are there now."""
    before, now = _begun(job, previous), job.stitching.data
    if before and before.data and now and before.data != now:
        raise StitchError(f"{_first_fold(job)} was begun with other preprocessed data, folds or labels than "
                          f"{job.preprocessed_folder} holds now; put those back, or use -o_p NAME for another model")


def _first_fold(job: Job) -> str:
    return os.path.join(job.model_folder, f"fold_{folds_in(job.model_folder)[0]}")


def _begun(job: Job, previous: dict | None) -> Stitching | None:
    """The record of stitching that the folds in the job's model folder were begun with; None where there is none."""
    if not os.path.isdir(job.model_folder) or not folds_in(job.model_folder):
        return None
    beside = os.path.join(job.model_folder, "plans.json")  # not there yet where a fold was killed at its start
    plans = read_json(beside) if os.path.isfile(beside) else previous or {}
    found = Stitching.find(plans.get("configurations", {}).get(job.host.configuration, {}))
    return found if found and found.training.trainer == job.trainer else None


def _keep_other_folds(job: Job, previous: dict | None) -> None:
    """Folds may be trained one command at a time, so what earlier commands wrote into the plans must fit and stay."""
    name = job.host.configuration
    trained = [path for path in glob.glob(os.path.join(glob.escape(os.path.dirname(job.model_folder)),
                                                       f"*__{job.request.plans_name}__{name}", "fold_*"))
               if FOLD.fullmatch(os.path.basename(path))]
    if not trained:
        return
    if name not in (previous or {}).get("configurations", {}):  # removed since; the copy beside the folds is left
        beside = os.path.join(os.path.dirname(trained[0]), "plans.json")
        previous = read_json(beside) if os.path.isfile(beside) else None
    old, new = (p.get("configurations", {}).get(name) for p in (previous or {}, job.plans))
    if old is None:
        return
    ours, theirs = job.stitching, Stitching.of(old)
    before = [_found_again(own, then) for own, then in zip(ours.parents, theirs.parents)]
    if len(theirs.parents) != len(ours.parents) or _identity(old, before) != _identity(new, ours.parents):
        raise StitchError(f"{job.plans_file} was made for other parents, positions or checkpoints, and "
                          f"{os.path.dirname(trained[0])} was trained with it; give the same arguments as then, "
                          f"or -o_p NAME for another model")
    folds = {os.path.basename(path)[len("fold_"):] for path in trained}
    kept = [{f: then.folds[f] for f in folds & then.folds.keys()} for then in before]
    for own, entries in zip(ours.parents, kept):
        for fold, entry in entries.items():
            if own.folds.get(fold, entry) != entry:
                raise StitchError(f"fold {fold} was stitched with fold {entry['fold']} of {own.dataset}, {own.plans}, "
                                  f"which is not what it would be stitched with now (fold or sha256 differs: another "
                                  f"-f_b or -m_b, or that model has changed since, as by nnUNetv2_adapt_party --c "
                                  f"-alpha); give the same model as then, or -o_p NAME for another")
    replace(ours, parents=tuple(replace(own, folds={**own.folds, **entries})
                                for own, entries in zip(ours.parents, kept))).put_into(new)


def _found_again(ours: ParentRecord, theirs: ParentRecord) -> ParentRecord:
    """A parent that has moved since is known by its sha256. Where it is gone from its recorded place and lies at ours,
    its record says what it is called there.

    Raises:
        StitchError: it is gone, and some of its folds that were stitched are not at the place given now.
    """
    results = str(nnUNet_results)
    moved = theirs.at(ours)
    before, now = ({fold: record.path(fold, results) for fold in theirs.folds} for record in (theirs, moved))
    if before == now or all(map(os.path.isfile, before.values())):
        return theirs
    for fold in theirs.folds:
        if not os.path.isfile(now[fold]) or sha256(now[fold]) != theirs.sha256(fold):
            raise StitchError(f"fold {fold} was stitched with {before[fold]}, which is not there any more, and "
                              f"{now[fold]} is another checkpoint or missing; give the folder's present place with "
                              f"-m_a or -m_b, or use -o_p NAME for another model")
    return moved


def note_places(job: Job) -> None:
    """Write into the plans where the parents lie now, so that whatever reads them later finds them there."""
    for path in (job.plans_file, os.path.join(job.model_folder, "plans.json")):
        if not os.path.isfile(path):
            continue
        plans = read_json(path)
        configuration = plans["configurations"].get(job.host.configuration, {})
        stitched = Stitching.find(configuration)
        places = stitched and tuple(record.at(own) for record, own in zip(stitched.parents, job.stitching.parents))
        if stitched and places != stitched.parents:
            replace(stitched, parents=places).put_into(configuration)
            write_json(path, plans)


def _identity(configuration: dict, parents: Sequence[ParentRecord]) -> tuple:
    """What must not change between a training and its continuation, and among folds."""
    arguments = configuration["architecture"]["arch_kwargs"]
    return (arguments["parents"], [(m["host"], m.get("party", "partner"), m["partner"]) for m in arguments["matches"]],
            arguments["positions"], arguments.get("bridges"),
            [(p.dataset, p.trainer, p.plans, p.checkpoint) for p in parents])
