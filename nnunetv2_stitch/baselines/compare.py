"""Every baseline beside the stitched ensemble: trained or reused on the same folds, tested on every party's cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from nnunetv2.paths import nnUNet_raw, nnUNet_results

from nnunetv2_stitch.baselines.obstacles import obstacle
from nnunetv2_stitch.baselines.row_maker import RowMaker
from nnunetv2_stitch.baselines.rows import OLD_KEYS, ROWS, Answer, Row
from nnunetv2_stitch.baselines.state import PREDICTIONS, State, comparison_record
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.comparison import Comparison
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet, require_distinct, require_unseen
from nnunetv2_stitch.evaluation.evaluate import evaluate
from nnunetv2_stitch.evaluation.labels import read_labels
from nnunetv2_stitch.evaluation.predicting import files_to_predict, load_predictor
from nnunetv2_stitch.folders import names_in
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.pipeline.job import Job, Request
from nnunetv2_stitch.pipeline.prepare import examine

HOST_ROW = ROWS[0].key


@dataclass(frozen=True)
class CompareResult:
    """A finished comparison. `details` says of a row what it turned out to be, `skipped` why a row is not there, both
    by the row's name. `model_folders`: what answered, and `names`: what the comparison calls it, by the row's key."""

    folder: str
    comparison: Comparison
    details: dict[str, str]
    skipped: dict[str, str]
    model_folders: dict[str, str]
    names: dict[str, str]


def compare(dataset_a: str | int | None, dataset_b: str | int | None, folder: str | None = None,
            test_sets: Mapping[str, str] | None = None, rows: Sequence[str] | None = None, *,
            unseen: Mapping[str, str] | None = None,
            device: str | torch.device = "cuda", resume: bool = False, progress: bool = True,
            baseline_epochs: int | None = None, baseline_iterations: int | None = None, tta: bool = True,
            tolerance: float | None = None,
            say: Callable[[str], None] = lambda line: None, **request) -> CompareResult:
    """Train what is not trained yet, predict every test set with every row, and evaluate.

    Args:
        rows: keys of `ROWS` to make; default all. "A alone" is always among them: the others are tested against it.
        **request: fields of `Request`, for the stitches. For these and the other arguments see
            `api.evaluation.compare`.

    Raises:
        StitchError: bad input, before anything is written; or a row that could not be made.
    """
    device = torch.device(device)
    job = examine(Request(dataset_a, dataset_b, **request))
    _require_one_labelling(job)
    folder = os.path.abspath(folder or os.path.join(str(nnUNet_results), job.host.dataset_name,
                                                    f"comparison_with_{job.partner.dataset_name}"))
    sets = _test_sets(test_sets, unseen, job)
    _require_predictable(job, sets)
    wanted = chosen_rows(rows)
    state = State.of(folder, comparison_record(job, baseline_epochs, baseline_iterations, tta), sets, resume)
    state.write()
    maker = RowMaker(job, [row.key for row in wanted], device, progress, baseline_epochs, baseline_iterations, say)
    headings = {row.key: f"[{number}/{len(wanted)}] {row.name}" for number, row in enumerate(wanted, 1)}
    for row in wanted:
        if not state.is_made(row.key, sets):
            state.rows.pop(row.key, None)
            state.skipped.pop(row.key, None)
            if reason := obstacle(row.key, job, baseline_epochs, baseline_iterations):
                say(f"{headings[row.key]}: left out, {reason}")
                state.skipped[row.key] = reason
    state.write()
    for row in wanted:
        if row.key in state.skipped:
            continue
        say(headings[row.key])
        if row.key not in state.rows:
            state.add(row.key, maker.make(row.key))
        todo = state.left(row.key, sets)
        if not todo:
            say(f"{headings[row.key]}: done before")
            continue
        predictor = _predictor(state.answer(row.key), device, tta)
        for test_set in todo:
            predictor.predict_from_files_sequential(test_set.images_folder, _made(_predictions(folder, row, test_set)))
            state.rows[row.key]["predicted"].append(test_set.name)
            state.write()
    made = [row for row in wanted if row.key in state.rows]
    say("Evaluating")
    answers = {r: state.answer(r.key) for r in made}
    names = {r.key: ", ".join(filter(None, (r.name, answers[r].named))) for r in made}
    models = [ModelEntry(names[r.key], note=r.note, predictions={t.name: _predictions(folder, r, t) for t in sets})
              for r in made]
    comparison = evaluate(models, sets, own=sets[0].name, tolerance=tolerance, progress=progress,
                          labels=read_labels(os.path.join(job.host.path, "dataset.json")))
    details = {r.name: a.detail for r, a in answers.items() if a.detail}
    skipped = {r.name: state.skipped[r.key] for r in wanted if r.key in state.skipped}
    remarks = [*(f"{name}: {detail}." for name, detail in details.items()),
               *(f"Left out: {name}, because {reason}." for name, reason in skipped.items())]
    return CompareResult(folder, replace(comparison, remarks=(*comparison.remarks, *remarks)), details, skipped,
                         {r.key: a.model_folder for r, a in answers.items()}, names)


def _require_one_labelling(job: Job) -> None:
    """Test sets are scored by the host's labels, and read by every model in its own order of channels."""
    differ = [line for line in job.reports[0].lines if line.name in ("labels", "channels") and line.kind != "same"]
    if differ:
        raise StitchError(f"a comparison needs the same {' and '.join(d.name for d in differ)} at both parties: host "
                          f"{differ[0].host}, partner {differ[0].partner}; nnUNetv2_train_stitch bridges them, "
                          f"a comparison does not")


def _require_predictable(job: Job, sets: Sequence[TestSet]) -> None:
    """Every model predicts every test set, so each must be of the files that both parties' models read. Found here,
    because nnU-Net says of a folder without such files that there are 0 cases, and goes on."""
    ending, other = (p.dataset_json.get("file_ending") for p in (job.host, job.partner))
    if ending != other:
        raise StitchError(f"{job.host.path} reads {ending} files, {job.partner.path} {other}, and a "
                          f"comparison predicts every test set with both; nnUNetv2_train_stitch stitches them, and "
                          f"nnUNetv2_evaluate_stitched takes predictions made elsewhere")
    for test_set in sets:
        cases = list(test_set.cases(ending))
        for party in (job.host, job.partner):
            files_to_predict(ModelEntry(party.dataset_name, party.path), test_set, cases, ending)


def _predictions(folder: str, row: Row, test_set: TestSet) -> str:
    return os.path.join(folder, PREDICTIONS, row.key, test_set.name)


def _made(folder: str) -> str:
    os.makedirs(folder, exist_ok=True)
    return folder


def _predictor(answer: Answer, device: torch.device, tta: bool):
    if not answer.settings:
        return load_predictor(ModelEntry("model", answer.model_folder), answer.folds, answer.checkpoint_name, device,
                              tta)
    predictor = StitchedPredictor(device=device, use_mirroring=tta, allow_tqdm=False,
                                  perform_everything_on_device=device.type == "cuda")
    predictor.initialize_from_stitches(answer.model_folder, answer.settings)
    return predictor


def _test_sets(given: Mapping[str, str] | None, unseen: Mapping[str, str] | None, job) -> list[TestSet]:
    if given is None:
        if not nnUNet_raw.is_set():
            raise StitchError("environment variable nnUNet_raw is not set; set it, or name the test sets with "
                              "-datasets")
        if job.host.dataset_name == job.partner.dataset_name:
            raise StitchError(f"both parties call their dataset {job.host.dataset_name}; name the test sets with "
                              f"-datasets A=FOLDER B=FOLDER")
        given = {p.dataset_name: os.path.join(str(nnUNet_raw), p.dataset_name) for p in (job.host, job.partner)}
    sets = [*(TestSet(name, path) for name, path in given.items()),
            *(TestSet(name, path, unseen=True) for name, path in (unseen or {}).items())]
    require_distinct((s.name for s in sets), "dataset")
    require_unseen(sets)
    for test_set in sets:
        images, labels = test_set.images_folder, test_set.labels_folder
        if images is None or not names_in(images) or labels == test_set.folder:
            raise StitchError(f"{test_set.folder} holds no test cases; a comparison needs imagesTs and labelsTs of "
                              f"every hospital that is tested: add them, or name folders with "
                              f"{'-unseen' if test_set.unseen else '-datasets'} NAME=DIR")
    return sets


def chosen_rows(keys: Sequence[str] | None) -> list[Row]:
    """Rows by their keys, old spellings included; all for None.

    Raises:
        StitchError: an unknown key.
    """
    keys = None if keys is None else [OLD_KEYS.get(k, k) for k in keys]
    unknown = [k for k in keys or () if k not in {r.key for r in ROWS}]
    if unknown:
        raise StitchError(f"there is no row {unknown[0]}; choose among {', '.join(r.key for r in ROWS)}")
    return [r for r in ROWS if keys is None or r.key in (HOST_ROW, *keys)]
