"""The result of an evaluation, from which every table, figure and page is made; JSON there and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.labels import Labels
from nnunetv2_stitch.evaluation.metrics import MEASURES, Measure
from nnunetv2_stitch.evaluation.plane import Plane
from nnunetv2_stitch.evaluation.statistics import PairedTest, Summary, from_json, to_json
from nnunetv2_stitch.evaluation.unseen import UnseenMean
from nnunetv2_stitch.fileio import found_again, read_json, relative_path, write_json

FORMAT = "nnunetv2_stitch comparison 1"
FILE = "comparison.json"
KINDS = ("own", "partner", "unseen")
WHOSE = {"own": "own cases", "partner": "partner's cases", "unseen": "unseen hospital"}
MARKS = ("†", "‡", "§", "¶", "‖", "#", "**", "††", "‡‡", "§§")


@dataclass(frozen=True)
class Score:
    """One measure row per model, party, case and label. `remark`: why values are missing or bounds (see
    `docs/reference/evaluation.md`): where the label is `empty`, or who lacks it."""

    model: str
    party: str
    case: str
    label: str
    dice: float
    surface_dice: float
    hd95: float
    remark: str = ""


@dataclass(frozen=True)
class Settings:
    """How the numbers were made. `folds` None: all that are trained. `tolerance` in mm."""

    tolerance: float
    seed: int = 12345
    resamples: int = 9999
    folds: tuple[int | str, ...] | None = None
    checkpoint_name: str = "checkpoint_final.pth"
    mirroring: bool = True
    version: str = ""

    def to_json(self) -> dict:
        return {**asdict(self), "folds": None if self.folds is None else list(self.folds)}

    @classmethod
    def from_json(cls, value: Mapping) -> Settings:
        return cls(**{**value, "folds": None if value["folds"] is None else tuple(value["folds"])})


@dataclass(frozen=True)
class Comparison:
    """Models against test sets. Parties are never averaged: each party's cases are an objective of their own. Only the
    hospitals that are no party have a mean besides.

    Attributes:
        models, datasets: what was compared, in the order shown.
        host: the model that is the host alone, with which the others are compared.
        own: the test set with the host's own cases.
        labels: what was compared in each case.
        settings: how.
        scores: all values.
        summaries, tests, planes: what was made of them.
        predictions: model -> test set -> folder of the segmentations.
        remarks: what a reader has to know.
        unseen_means: of every model over the hospitals that are no party; empty where there are none.
    """

    models: tuple[ModelEntry, ...]
    datasets: tuple[TestSet, ...]
    host: str
    own: str
    labels: Labels
    settings: Settings
    scores: tuple[Score, ...] = field(repr=False)
    summaries: tuple[Summary, ...] = field(repr=False)
    tests: tuple[PairedTest, ...] = field(repr=False)
    planes: tuple[Plane, ...] = field(repr=False)
    predictions: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    remarks: tuple[str, ...] = ()
    unseen_means: tuple[UnseenMean, ...] = field(default=(), repr=False)

    @property
    def model_names(self) -> list[str]:
        return [m.name for m in self.models]

    @property
    def parties(self) -> list[str]:
        """Names of the test sets: the host's own, the partners', those of unseen hospitals."""
        return sorted((d.name for d in self.datasets), key=lambda name: KINDS.index(self.kind(name)))

    @property
    def unseen(self) -> list[str]:
        """Names of the test sets of hospitals that are no party."""
        return [d.name for d in self.datasets if d.unseen]

    def kind(self, party: str) -> str:
        """Whose cases a test set holds: one of `KINDS`."""
        return KINDS[0] if party == self.own else KINDS[2] if party in self.unseen else KINDS[1]

    def whose(self, party: str) -> str:
        """The same for readers."""
        return WHOSE[self.kind(party)]

    @cached_property
    def marks(self) -> dict[str, str]:
        """Note -> its mark, in order of first appearance."""
        notes = dict.fromkeys(m.note for m in self.models if m.note)
        return {note: MARKS[i] if i < len(MARKS) else f"({i + 1})" for i, note in enumerate(notes)}

    def shown(self, model: str) -> str:
        """A model's name with its mark."""
        note = next(m.note for m in self.models if m.name == model)
        return f"{model} {self.marks[note]}" if note else model

    @cached_property
    def legend(self) -> list[str]:
        """A line for each mark."""
        return [f"{mark} {note}" for note, mark in self.marks.items()]

    @cached_property
    def _summaries(self) -> dict[tuple, Summary]:
        return {(s.model, s.party, s.label, s.measure): s for s in self.summaries}

    @cached_property
    def _tests(self) -> dict[tuple, PairedTest]:
        return {(t.model, t.party, t.label, t.measure): t for t in self.tests}

    @cached_property
    def _unseen_means(self) -> dict[tuple, UnseenMean]:
        return {(u.model, u.label, u.measure): u for u in self.unseen_means}

    @cached_property
    def _cases(self) -> dict[tuple, dict[str, Score]]:
        found: dict[tuple, dict[str, Score]] = {}
        for s in self.scores:
            found.setdefault((s.model, s.party, s.label), {})[s.case] = s
        return found

    def summary(self, model: str, party: str, label: str, measure: str = "dice") -> Summary:
        return self._summaries[model, party, label, measure]

    def test(self, model: str, party: str, label: str, measure: str = "dice") -> PairedTest | None:
        """None for the host itself."""
        return self._tests.get((model, party, label, measure))

    def unseen_mean(self, model: str, label: str, measure: str = "dice") -> UnseenMean:
        return self._unseen_means[model, label, measure]

    def cases(self, model: str, party: str, label: str) -> dict[str, Score]:
        """Case -> score, in order of the cases' names."""
        return self._cases.get((model, party, label), {})

    def case_values(self, party: str, measure: Measure) -> dict[str, list[float]]:
        """Case -> the measure of its main label, one value per model, NaN where it is not defined."""
        found = [self.cases(m, party, self.labels.main) for m in self.model_names]
        return {case: [getattr(by_case[case], measure.key) for by_case in found] for case in found[0]}

    def worst_cases(self, party: str, count: int) -> list[str]:
        """Cases whose median Dice over all models is lowest, the lowest first. The median, so that one failed model
        does not choose them."""
        values = self.case_values(party, MEASURES[0])
        medians = {c: float(np.median(known)) for c, v in values.items()
                   if (known := [x for x in v if np.isfinite(x)])}
        return sorted(medians, key=lambda c: (medians[c], c))[:count]

    def moved(self, path: Callable[[str], str]) -> Comparison:
        """With `path` applied to every folder."""
        return replace(self, models=tuple(m.moved(path) for m in self.models),
                       datasets=tuple(d.moved(path) for d in self.datasets),
                       predictions={m: {d: path(f) for d, f in v.items()} for m, v in self.predictions.items()})

    def to_json(self) -> dict:
        rows = {name: [to_json(r) for r in getattr(self, name)] for name in ("summaries", "tests", "scores")}
        return {"format": FORMAT, "models": [asdict(m) for m in self.models],
                "datasets": [asdict(d) for d in self.datasets], "host": self.host, "own": self.own,
                "labels": self.labels.to_json(), "settings": self.settings.to_json(), "remarks": list(self.remarks),
                "predictions": {m: dict(v) for m, v in self.predictions.items()},
                "planes": [p.to_json() for p in self.planes],
                "unseen_means": [u.to_json() for u in self.unseen_means], **rows}

    @classmethod
    def from_json(cls, value: Mapping) -> Comparison:
        """Undo `to_json`. Raises KeyError, TypeError or StitchError on anything else."""
        rows = {name: tuple(from_json(kind, r) for r in value[name])
                for name, kind in (("scores", Score), ("summaries", Summary), ("tests", PairedTest))}
        return cls(tuple(ModelEntry(**m) for m in value["models"]),
                   tuple(TestSet(**d) for d in value["datasets"]), value["host"], value["own"],
                   Labels.from_json(value["labels"]), Settings.from_json(value["settings"]), **rows,
                   planes=tuple(Plane.from_json(p) for p in value["planes"]), predictions=value["predictions"],
                   remarks=tuple(value["remarks"]),
                   unseen_means=tuple(UnseenMean.from_json(u) for u in value.get("unseen_means", ())))


def save_comparison(comparison: Comparison, path: str) -> str:
    """Write `comparison.json`; folders in it are relative to the file, so that a whole tree can be moved."""
    around = os.path.dirname(os.path.abspath(path))
    write_json(path, comparison.moved(lambda p: relative_path(p, around)).to_json())
    return path


def read_comparison(path: str) -> Comparison:
    """Read what `save_comparison` wrote.

    Raises:
        StitchError: the file is missing or none of ours.
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise StitchError(f"{path} is no comparison of nnUNetv2_evaluate_stitched; give the {FILE} that it wrote")
    try:
        comparison = Comparison.from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise StitchError(f"{path} is incomplete ({type(error).__name__}: {error}); evaluate again with -models and "
                          f"-datasets") from error
    around = os.path.dirname(os.path.abspath(path))
    return comparison.moved(lambda p: found_again(p, around))


def changes(before: Comparison, after: Comparison) -> list[str]:
    """Where two comparisons have different values, a line for each; numbers that differ by rounding are the same."""
    keys = ("dice", "surface_dice", "hd95")
    old = {(s.model, s.party, s.case, s.label): s for s in before.scores}
    new = {(s.model, s.party, s.case, s.label): s for s in after.scores}
    lines = []
    for key in {**old, **new}:
        values = [[getattr(side[key], k) for k in keys] if key in side else None for side in (old, new)]
        if None in values or not np.allclose(*values, rtol=1e-9, atol=1e-9, equal_nan=True):
            model, party, case, label = key
            lines.append(f"{model}, {party}, case {case}, {label}")
    return lines
