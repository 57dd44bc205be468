"""Models against test sets: find, predict where need be, measure, and sum up per party."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunetv2_stitch import __version__
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.comparison import Comparison, Score, Settings
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet, is_model_folder, require_distinct, require_unseen
from nnunetv2_stitch.evaluation.grids import difference
from nnunetv2_stitch.evaluation.labels import FOREGROUND, Agreement, Labels, agree, read_labels
from nnunetv2_stitch.evaluation.metrics import MEASURES, in_plane_spacing, score_case
from nnunetv2_stitch.evaluation.plane import plane
from nnunetv2_stitch.evaluation.segmentations import ending_of, read_segmentation, reader_for, require_same_grid
from nnunetv2_stitch.evaluation.statistics import compare_with_host, summarise, too_few
from nnunetv2_stitch.evaluation.unseen import UnseenMean, over_hospitals
from nnunetv2_stitch.fileio import read_json

LACKS, NOT_ANNOTATED, NO_MEAN = "the model lacks the label", "not annotated", "no mean: the model lacks a label"


@dataclass(frozen=True)
class _Party:
    """A test set that was looked through: its cases, and how its files are read."""

    test_set: TestSet
    ending: str
    cases: Mapping[str, str]
    reader: Any


def evaluate(models: Sequence[ModelEntry], datasets: Sequence[TestSet], *, host: str | None = None,
             own: str | None = None, output: str | None = None, tolerance: float | None = None,
             labels: Labels | None = None, folds: Sequence[int | str] | None = None,
             checkpoint_name: str = "checkpoint_final.pth", device: Any = "cpu", mirroring: bool = True,
             continue_prediction: bool = False, seed: int = 12345, resamples: int = 9999, progress: bool = False,
             verbose: bool = False, say: Callable[[str], None] = lambda line: None) -> Comparison:
    """Compare models on test sets; writes nothing but predictions.

    Torch is imported only if one of the models is a trained model folder. Every test set is an objective of its own;
    nothing is averaged over them, but for hospitals that are no party (`TestSet.unseen`), which have a mean besides.

    Args:
        models: at least one; trained model folders or predictions made elsewhere.
        datasets: at least one.
        host: name of the model that is the host alone, against which the others are tested; default the first.
        own: name of the test set with the host's own cases; default the first of a party.
        output: predictions of model folders go to `output/predictions/MODEL/TEST SET`.
        tolerance: of the surface Dice, in mm; default: one voxel, the largest over test sets of the median over cases
            of the larger spacing in the plane.
        labels: for where neither models nor test sets bring a dataset.json.
        folds, checkpoint_name, device, mirroring, continue_prediction: for model folders; `folds` None: all trained.
        seed, resamples: of the bootstrap.
        say: is told each step in a line.

    Raises:
        StitchError: a name taken twice or unknown, labels that contradict each other, a missing or unreadable file, a
            case without a prediction, shapes that differ, or a model that cannot be used.

    Example:
        >>> comparison = evaluate([ModelEntry("A alone", "predictions/a"), ModelEntry("joined", "predictions/j")],
        ...                       [TestSet("A", "raw/Dataset001_A"), TestSet("B", "raw/Dataset002_B")])
        >>> comparison.summary("joined", "B", comparison.labels.main).mean
    """
    host, own = _checked(models, datasets, host, own, tolerance)
    parties = [_look_through(d) for d in datasets]
    agreement = _labels(models, datasets, labels)
    to_predict = [m for m in models if m.folder and is_model_folder(m.folder)]
    folders = _predictions(models, to_predict, parties, output, say, progress, folds=folds,
                           checkpoint_name=checkpoint_name, device=device, mirroring=mirroring,
                           continue_prediction=continue_prediction, verbose=verbose)
    say("Measuring ...")
    tolerance = tolerance if tolerance is not None else _default_tolerance(parties)
    settings = Settings(tolerance, seed, resamples, None if folds is None else tuple(folds), checkpoint_name, mirroring,
                        __version__)
    scores, odd = _score_all(models, parties, folders, agreement, tolerance, progress)
    summaries, tests = sum_up(scores, host, seed, resamples)
    unseen = over_unseen(scores, [d.name for d in datasets if d.unseen], host, seed, resamples)
    unmarked = [m.name for m in models if not m.note]
    main, third = ([s for s in rows if s.label == agreement.labels.main and s.measure == "dice"]
                   for rows in (summaries, unseen))
    planes = [plane(own, d.name, main, unmarked, third) for d in datasets if d.name != own and not d.unseen]
    return Comparison(tuple(models), tuple(datasets), host, own, agreement.labels, settings, tuple(scores),
                      tuple(summaries), tuple(tests), tuple(planes), folders,
                      (*agreement.remarks, *odd, *_few_cases(parties, len(models) - 1)), tuple(unseen))


def inputs_of(comparison: Comparison) -> dict[str, Any]:
    """Arguments of `evaluate` with which the same inputs are compared in the same way once more."""
    s = comparison.settings
    return {"models": comparison.models, "datasets": comparison.datasets, "host": comparison.host,
            "own": comparison.own, "labels": comparison.labels, "tolerance": s.tolerance, "folds": s.folds,
            "checkpoint_name": s.checkpoint_name, "mirroring": s.mirroring, "seed": s.seed, "resamples": s.resamples}


def sum_up(scores: Sequence[Score], host: str, seed: int, resamples: int) -> tuple[list, list]:
    """Summaries of every model, and tests of every model but the host, per party, label and measure."""
    rows: dict[tuple[str, str], dict[str, list[Score]]] = {}
    for s in scores:
        rows.setdefault((s.party, s.label), {}).setdefault(s.model, []).append(s)
    summaries, tests = [], []
    for (party, label), by_model in rows.items():
        for measure in (m.key for m in MEASURES):
            values = {model: [getattr(s, measure) for s in found] for model, found in by_model.items()}
            keys = {"party": party, "label": label, "measure": measure}
            summaries += [summarise(v, [s.remark for s in by_model[model]], seed, resamples, model=model, **keys)
                          for model, v in values.items()]
            tests += compare_with_host(values[host], {m: v for m, v in values.items() if m != host}, seed=seed,
                                       resamples=resamples if measure == "dice" else 0, **keys)
    return summaries, tests


def over_unseen(scores: Sequence[Score], hospitals: Sequence[str], host: str, seed: int,
                resamples: int) -> list[UnseenMean]:
    """Means of every model over the hospitals that are no party, per label and measure; empty without any.

    Args:
        hospitals: names of their test sets.
        host: the model that the others are tested against.
        seed, resamples: of the bootstrap.
    """
    rows: dict[str, dict[str, dict[str, list[Score]]]] = {}
    for s in scores:
        if s.party in hospitals:
            rows.setdefault(s.label, {}).setdefault(s.model, {}).setdefault(s.party, []).append(s)
    return [mean for label, by_model in rows.items() for measure in (m.key for m in MEASURES)
            for mean in over_hospitals({model: {h: [getattr(s, measure) for s in found] for h, found in by.items()}
                                        for model, by in by_model.items()}, host, seed, resamples, label=label,
                                       measure=measure)]


def _checked(models: Sequence[ModelEntry], datasets: Sequence[TestSet], host: str | None, own: str | None,
             tolerance: float | None) -> tuple[str, str]:
    if not models or not datasets:
        raise StitchError("nothing to compare: give at least one model and one dataset")
    require_distinct((m.name for m in models), "model")
    require_distinct((d.name for d in datasets), "dataset")
    for given, names, what in ((host, [m.name for m in models], "-host"), (own, [d.name for d in datasets], "-own")):
        if given is not None and given not in names:
            raise StitchError(f"{what} {given} is not one of {', '.join(names)}")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise StitchError(f"tolerance {tolerance} is not a length in mm")
    for m in models:
        if m.folder and not os.path.isdir(m.folder):
            raise StitchError(f"model {m.name}: {m.folder} does not exist; give a trained model folder, or a folder of "
                              f"predictions")
        if m.mode and not is_model_folder(m.folder):
            raise StitchError(f"model {m.name}: {m.folder} is no trained model folder, so it has no mode {m.mode}; "
                              f"leave out @{m.mode}")
    for d in datasets:
        d.require_folder()
    require_unseen(datasets)
    parties = [d.name for d in datasets if not d.unseen]
    if not parties or own is not None and own not in parties:
        raise StitchError(f"{own or 'every dataset'} is of a hospital that is no party; name the host's own cases with "
                          f"-datasets")
    return host or models[0].name, own or parties[0]


def _labels(models: Sequence[ModelEntry], datasets: Sequence[TestSet], given: Labels | None) -> Agreement:
    sources = {}
    for m in models:
        # beside predictions it lies in the folder of either test set, or of all
        around = [m.folder, *(os.path.join(m.folder, d.name) for d in datasets)] if m.folder else m.predictions.values()
        path = next((p for f in around if os.path.isfile(p := os.path.join(f, "dataset.json"))), None)
        if path is not None:
            sources[m.name] = read_labels(path)
    said = [(f"model {name}", labels) for name, labels in sources.items()]
    annotated = [(f"dataset {d.name}", read_labels(d.dataset_json)) for d in datasets if d.dataset_json]
    if given is not None:
        annotated.append(("the labels given", given))
    return agree(said, annotated, complete=len(said) == len(models))


def _look_through(test_set: TestSet) -> _Party:
    contents = read_json(test_set.dataset_json) if test_set.dataset_json else {}
    ending = contents.get("file_ending") or ending_of(test_set.labels_folder)
    cases = test_set.cases(ending)
    return _Party(test_set, ending, cases, reader_for(ending, next(iter(cases.values())), contents))


def _predictions(models: Sequence[ModelEntry], to_predict: Sequence[ModelEntry], parties: Sequence[_Party],
                 output: str | None, say: Callable[[str], None], progress: bool,
                 **options: Any) -> dict[str, dict[str, str]]:
    """Model -> test set -> folder in which every case has a prediction. Predicts only when all inputs are in order."""
    folders = {m.name: {p.test_set.name: m.prediction_folder(p.test_set.name, len(parties) == 1) for p in parties}
               for m in models if m not in to_predict}
    for m in models:
        for p in parties if m not in to_predict else ():
            missing = [c for c in p.cases if not os.path.isfile(_file(folders[m.name][p.test_set.name], c, p))]
            if missing:
                raise StitchError(f"model {m.name} has no prediction of case {missing[0]} of dataset {p.test_set.name} "
                                  f"({_file(folders[m.name][p.test_set.name], missing[0], p)}), and of "
                                  f"{len(missing) - 1} more; predict all cases, since means over different cases "
                                  f"cannot be compared")
    if not to_predict:
        return folders
    if output is None:
        raise StitchError(f"model {to_predict[0].name} has to be predicted with: say where the predictions go")
    from nnunetv2_stitch.evaluation.predicting import files_to_predict, predict, require_trained
    images = {m.name: {p.test_set.name: files_to_predict(m, p.test_set, list(p.cases), p.ending) for p in parties}
              for m in to_predict}
    for m in to_predict:
        require_trained(m, options["folds"], options["checkpoint_name"])
    for m in to_predict:
        say(f"Predicting with {m.name} ...")
        with _bar(sum(map(len, images[m.name].values())), progress, f"predicting with {m.name}", "case") as bar:
            folders[m.name] = predict(m, images[m.name], output, each=lambda party, case, b=bar: b.update(), say=say,
                                      **options)
    return {m.name: folders[m.name] for m in models}


def _score_all(models: Sequence[ModelEntry], parties: Sequence[_Party], folders: Mapping[str, Mapping[str, str]],
               agreement: Agreement, tolerance: float, progress: bool) -> tuple[list[Score], list[str]]:
    scores, unknown, moved = [], {}, {}
    labels = agreement.labels
    with _bar(len(models) * sum(len(p.cases) for p in parties), progress, "evaluating", "segmentation") as bar:
        for p in parties:
            party = p.test_set.name
            for case, path in p.cases.items():
                reference, grid = read_segmentation(path, p.reader)
                for m in models:
                    file = _file(folders[m.name][party], case, p)
                    prediction, grid_there = read_segmentation(file, p.reader)
                    require_same_grid(reference, prediction, path, file)
                    found = score_case(reference, prediction, grid.spacing, labels.regions, tolerance, labels.ignore)
                    scores += _rows(m.name, party, case, found, agreement)
                    if said := difference(reference.shape, grid, grid_there):
                        moved.setdefault((m.name, party), []).append((case, said))
                    if odd := set(np.unique(prediction)) - labels.values - {0, labels.ignore}:
                        unknown.setdefault(m.name, (file, min(odd)))
                    bar.update()
    remarks = [f"{len(cases)} predictions of {m} on {party} lie elsewhere than their references, first case "
               f"{cases[0][0]}: {cases[0][1]}; they were compared voxel by voxel, as nnU-Net does, with the "
               f"references' spacing." for (m, party), cases in moved.items()]
    remarks += [f"{m} predicts value {v} in {os.path.basename(f)}, which is none of the labels; it counts as "
                f"background." for m, (f, v) in unknown.items()]
    return scores, remarks


def _rows(model: str, party: str, case: str, found: Mapping[str, Any], agreement: Agreement) -> list[Score]:
    """A row per label, NaN where the model or the reference cannot have it, and the mean over labels."""
    rows, counted, lacking = [], [], False
    for label, s in found.items():
        remark = s.empty
        if not agreement.has(f"dataset {party}", label):
            remark = NOT_ANNOTATED
        elif not agreement.has(f"model {model}", label):
            remark, lacking = LACKS, True
        values = [s.dice, s.surface_dice, s.hd95] if remark == s.empty else [math.nan] * 3
        rows.append(Score(model, party, case, label, *values, remark))
        counted += [values] if np.isfinite(values).all() else []
    if len(found) > 1:
        # A mean over fewer labels than the others' would be no fair comparison.
        means = [math.nan] * 3 if lacking or not counted else np.mean(counted, axis=0).tolist()
        one_sided = next((r.remark for r in rows if r.remark in ("reference", "prediction")), "")
        rows.append(Score(model, party, case, FOREGROUND, *means,
                          NO_MEAN if lacking else one_sided if counted else "both"))
    return rows


def _default_tolerance(parties: Sequence[_Party]) -> float:
    widths = []
    for p in parties:
        grids = [(a.shape, grid.spacing) for a, grid in (read_segmentation(f, p.reader) for f in p.cases.values())]
        widths.append(float(np.median([in_plane_spacing(shape, spacing) for shape, spacing in grids])))
    return max(widths)


def _few_cases(parties: Sequence[_Party], models: int) -> list[str]:
    if models < 1:
        return []
    return [f"{p.test_set.name}: {said}." for p in parties if (said := too_few(len(p.cases), models))]


def _file(folder: str, case: str, party: _Party) -> str:
    return os.path.join(folder, case + party.ending)


def _bar(total: int, progress: bool, doing: str, unit: str):
    from tqdm import tqdm
    return tqdm(total=total, desc=doing, unit=unit, disable=not progress, leave=False)
