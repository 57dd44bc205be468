"""Which labels are compared, from the dataset.json of all models and test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json

FOREGROUND = "foreground mean"


@dataclass(frozen=True)
class Labels:
    """Foreground labels or regions, in nnU-Net's order, and the label that is ignored.

    `regions`: name -> the values in it; one value for an ordinary label, several for a region (nnU-Net's region-based
    training). `ignore`: value of voxels that do not count, in the reference.
    """

    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignore: int | None = None

    @property
    def rows(self) -> tuple[str, ...]:
        """The labels and, where there are several, their mean (`FOREGROUND`)."""
        return (*self.regions, FOREGROUND) if len(self.regions) > 1 else tuple(self.regions)

    @property
    def main(self) -> str:
        """The row that stands for a case as a whole: the foreground mean, or the only label."""
        return self.rows[-1]

    @property
    def values(self) -> frozenset[int]:
        return frozenset(v for values in self.regions.values() for v in values)

    def to_json(self) -> dict:
        """As `labels` in nnU-Net's dataset.json."""
        labels: dict[str, Any] = {"background": 0}
        labels.update({k: v[0] if len(v) == 1 else list(v) for k, v in self.regions.items()})
        return labels if self.ignore is None else {**labels, "ignore": self.ignore}

    @classmethod
    def from_json(cls, value: Mapping, path: str = "the labels") -> Labels:
        """From `labels` of a dataset.json; `path` is for messages.

        Raises:
            StitchError: they are not as nnU-Net v2 writes them.
        """
        try:
            regions = {str(k): tuple(sorted({int(v) for v in (values if isinstance(values, (list, tuple))
                                                               else [values])}))
                       for k, values in value.items() if k != "ignore"}
            ignore = None if value.get("ignore") is None else int(value["ignore"])
        except (AttributeError, TypeError, ValueError) as error:
            raise StitchError(f"{path}: labels are not as nnU-Net v2 writes them (name: value); copy the file again "
                              f"from its source") from error
        regions = {k: v for k, v in regions.items() if v and v != (0,)}
        if not regions:
            raise StitchError(f"{path} names no label beside the background; copy the file again from its source")
        if FOREGROUND in regions:
            raise StitchError(f"{path}: no label may be called {FOREGROUND!r}, which names the mean here; rename it")
        if ignore in {v for values in regions.values() for v in values}:
            raise StitchError(f"{path}: value {ignore} is both a label and the ignore label; give one of them another")
        return cls(regions, ignore)


def read_labels(path: str) -> Labels:
    """Of a dataset.json. Raises StitchError if it is missing, unreadable or of another kind."""
    contents = read_json(path)
    if not isinstance(contents, dict) or "labels" not in contents:
        raise StitchError(f"{path} has no labels; is it nnU-Net's dataset.json?")
    return Labels.from_json(contents["labels"], path)


@dataclass(frozen=True)
class Agreement:
    """The labels that are compared, which source has which values, and what is to be said of it."""

    labels: Labels
    values: Mapping[str, frozenset[int]]
    remarks: tuple[str, ...] = ()

    def has(self, source: str, label: str) -> bool:
        """Whether a source has all values of a label. One that names no labels at all counts as having each."""
        return source not in self.values or set(self.labels.regions[label]) <= self.values[source]


def agree(models: Sequence[tuple[str, Labels]], datasets: Sequence[tuple[str, Labels]],
          complete: bool = True) -> Agreement:
    """Labels of all sources by value; the first source that has a value names it.

    What is compared is what at least one model has; labels that only test sets have are named in a remark. A model
    that names no labels counts as having all.

    Args:
        models, datasets: name for messages, and its labels.
        complete: whether all models are among `models`, so that each names its labels.

    Raises:
        StitchError: one name stands for different values, or one value both for a label and for ignore; or no source
            names any label.
    """
    known: dict[tuple[int, ...], tuple[str, str]] = {}
    by_name: dict[str, tuple[tuple[int, ...], str]] = {}
    ignore: tuple[int, str] | None = None
    remarks = []
    for source, labels in (*models, *datasets):
        for name, values in labels.regions.items():
            before = by_name.setdefault(name, (values, source))
            if before[0] != values:
                raise StitchError(f"label {name} is {_said(before[0])} in {before[1]} and {_said(values)} in {source}; "
                                  f"bring all of them to one labelling first")
            first, by = known.setdefault(values, (name, source))
            if first != name:
                remarks.append(f"Label {_said(values)} is called {first} by {by} and {name} by {source}; it is taken "
                               f"for the same, under the first name.")
        if labels.ignore is not None:
            ignore = ignore or (labels.ignore, source)
            if ignore[0] != labels.ignore:
                raise StitchError(f"the ignore label is {ignore[0]} in {ignore[1]} and {labels.ignore} in {source}; "
                                  f"bring all of them to one labelling first")
    if not known:
        raise StitchError("no model and no dataset says which labels there are; put a dataset.json beside the "
                          "predictions or into the dataset's folder, or give one with -djfile")
    sources = {source: labels.values for source, labels in (*models, *datasets)}
    _require_ignore_apart(ignore, sources)
    wanted = {values: name for values, (name, _) in known.items()
              if not (models and complete) or any(set(values) <= labels.values for _, labels in models)}
    left = [name for values, (name, _) in known.items() if values not in wanted]
    if left:
        remarks.append(f"No model has {', '.join(left)}, so nothing is said of it.")
    regions = {name: values for values, name in wanted.items()}
    return Agreement(Labels(regions, ignore and ignore[0]), sources, tuple(remarks))


def _require_ignore_apart(ignore: tuple[int, str] | None, sources: Mapping[str, frozenset[int]]) -> None:
    for source, values in sources.items():
        if ignore is not None and ignore[0] in values:
            raise StitchError(f"value {ignore[0]} is ignored in {ignore[1]} and a label in {source}; bring all of them "
                              f"to one labelling first")


def _said(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(values) == 1 else f"({', '.join(map(str, values))})"
