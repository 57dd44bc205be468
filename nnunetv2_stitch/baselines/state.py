"""What a comparison has done so far, in a file beside its results, and whether that is this comparison."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from nnunetv2_stitch.baselines.rows import OLD_KEYS, Answer
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.entries import TestSet
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.folders import files_in, names_in
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.pipeline.identity import stitches_record
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.provenance import Provenance
from nnunetv2_stitch.stitching.supernet import STITCHES_FILE

STATE_FILE, PREDICTIONS = "compare_state.json", "predictions"


@dataclass
class State:
    """Kept in `folder`. `record`: what the comparison is of. `tests`: what its test sets held, by name. `rows`: by the
    row's key its answer, the sha256 of the weights that it answers with and the test sets that are predicted.
    `skipped`: why a row is not there."""

    folder: str
    record: Provenance
    tests: dict[str, str]
    rows: dict[str, dict] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: str, record: Provenance, sets: Sequence[TestSet], resume: bool) -> State:
        """What was done in the folder before, or nothing.

        Raises:
            StitchError: there is anything else in the folder, or a comparison and not `resume`.
        """
        state = cls(folder, record, {s.name: _contents(s) for s in sets})
        if os.path.isfile(state.path):
            if not resume:
                raise StitchError(f"{folder} holds a comparison; add --c to go on with it, or choose another folder "
                                  f"with -o")
            state._go_on(read_json(state.path))
        elif os.path.isdir(folder) and names_in(folder):
            raise StitchError(f"{folder} is not empty and holds no comparison; choose another folder with -o")
        return state

    @property
    def path(self) -> str:
        return os.path.join(self.folder, STATE_FILE)

    def write(self) -> None:
        write_json(self.path, {**self.record.to_json(), "tests": self.tests, "rows": self.rows,
                               "skipped": self.skipped})

    def answer(self, key: str) -> Answer:
        return Answer.from_json(self.rows[key]["answer"])

    def is_made(self, key: str, sets: Sequence[TestSet]) -> bool:
        """Whether the row is made and, where test sets are left to predict, still answers with the same weights."""
        return key in self.rows and (not self.left(key, sets) or self.rows[key]["sha256"] == _weights(self.answer(key)))

    def left(self, key: str, sets: Sequence[TestSet]) -> list[TestSet]:
        """Test sets that the row has not predicted yet."""
        return [s for s in sets if s.name not in self.rows[key]["predicted"]]

    def add(self, key: str, answer: Answer) -> None:
        """A row that was made, for the first time or anew."""
        self.rows[key] = {"answer": answer.to_json(), "sha256": _weights(answer), "predicted": []}
        self.skipped.pop(key, None)
        self.write()

    def _go_on(self, before: dict) -> None:
        record = Provenance.from_json(before)
        differ = ["settings"] if record is None else record.differences(self.record)
        if differ:
            raise StitchError(f"the comparison in {self.folder} was started with other {', '.join(differ)}; choose "
                              f"another folder with -o")
        changed = [name for name, held in self.tests.items() if before["tests"].get(name, held) != held]
        if changed:
            raise StitchError(f"the test cases of {changed[0]} are not those that the comparison in {self.folder} was "
                              f"started with; choose another folder with -o")
        self.tests = {**before["tests"], **self.tests}
        self.rows, self.skipped = ({OLD_KEYS.get(key, key): v for key, v in before[part].items()}
                                   for part in ("rows", "skipped"))
        for old, new in OLD_KEYS.items():  # before the state is written, so that a kill in between loses nothing
            there, now = (os.path.join(self.folder, PREDICTIONS, key) for key in (old, new))
            if os.path.isdir(there) and not os.path.exists(now):
                os.rename(there, now)


def comparison_record(job: Job, epochs: int | None, iterations: int | None, tta: bool) -> Provenance:
    """What a comparison is of; `epochs` and `iterations` of what is trained beside the stitches."""
    request = job.request
    return Provenance("comparison", {
        **stitches_record(job.configuration, job.folds).made_from, "combine": request.combine,
        "guided_steps": request.search_steps, "plans_name": request.plans_name, "baseline_epochs": epochs,
        "baseline_iterations": iterations, "checkpoint": [job.host.checkpoint_name, job.partner.checkpoint_name],
        "tta": tta})


def _weights(answer: Answer) -> dict[str, str] | None:
    """sha256 of what the answer is computed with, by fold; None where it is gone."""
    name = STITCHES_FILE if answer.settings else answer.checkpoint_name
    paths = {str(f): os.path.join(answer.model_folder, f"fold_{f}", name) for f in answer.folds}
    return {f: sha256(p) for f, p in paths.items()} if all(map(os.path.isfile, paths.values())) else None


def _contents(test_set: TestSet) -> str:
    """Tells test cases from others: names and contents of images and labels."""
    held = [[(n, sha256(os.path.join(folder, n))) for n in files_in(folder)]
            for folder in (test_set.images_folder, test_set.labels_folder)]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()
