"""A comparison as rows and sentences: for tables, for CSV, and for readers in a hurry."""

from __future__ import annotations

import csv
import math
from typing import Any

from nnunetv2_stitch.evaluation.comparison import Comparison
from nnunetv2_stitch.evaluation.metrics import MEASURES, Measure
from nnunetv2_stitch.evaluation.tables import markdown_table, with_interval
from nnunetv2_stitch.figures.heat_map import BETTER, WORSE, verdict
from nnunetv2_stitch.fileio import atomically

LISTED = 6  # more names than these are read in the table
CSV_COLUMNS = ("model", "party", "case", "label", "metric", "value", "kind")
CAVEATS = (
    "Parties are separate objectives: no number here is a mean over parties. Where hospitals are compared that are no "
    "party, these have a mean besides, in which each counts alike.",
    "Intervals say how much a mean depends on which cases were tested, as if cases were independent; slices or visits "
    "of one patient are not. They say nothing about other training runs of the same models.",
    "p-values are corrected over the models of a party, not over parties, labels and measures. A model that does not "
    "differ significantly is not shown to be equal.",
)
UNSEEN_RULE = ("Hospitals that are no party: mean of the hospitals' means, interval by the bootstrap over cases within "
               "each hospital (percentiles); difference to the host alone on the same cases.")


def mean_and_interval(comparison: Comparison, model: str, party: str, label: str, measure: Measure) -> str:
    """Such as `0.912 [0.880, 0.931]`; `-` where the measure is defined in no case.

    Args:
        model, party, label: by their names in the comparison.
    """
    s = comparison.summary(model, party, label, measure.key)
    return with_interval(s.mean, s.low, s.high, f".{measure.digits}f")


def party_rows(comparison: Comparison, party: str) -> list[dict[str, Any]]:
    """One row per model: Dice against the host with its test, then the other measures, all of the main label."""
    label, dice = comparison.labels.main, MEASURES[0]
    rows = []
    for model in comparison.model_names:
        test = comparison.test(model, party, label)
        sign = verdict(comparison, model, party, label, dice)
        row = {"model": comparison.shown(model), "Dice": mean_and_interval(comparison, model, party, label, dice),
               "difference": "host" if test is None else with_interval(test.difference, test.low, test.high, "+.3f"),
               "p (Holm)": "" if test is None else p_value(test.p_holm) + sign}
        for measure in MEASURES[1:]:
            row[measure.heading] = mean_and_interval(comparison, model, party, label, measure)
        rows.append(row)
    return rows


def three_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per model: Dice on own cases, on each partner's, and the mean over unseen hospitals with its difference
    to the host, all of the main label. Empty without unseen hospitals."""
    label, dice, rows = comparison.labels.main, MEASURES[0], []
    for model in comparison.model_names if comparison.unseen_means else ():
        u = comparison.unseen_mean(model, label)
        row = {"model": comparison.shown(model),
               **{f"{party} ({comparison.kind(party)})": mean_and_interval(comparison, model, party, label, dice)
                  for party in comparison.parties if party not in comparison.unseen},
               _unseen(comparison): with_interval(u.mean, u.low, u.high, ".3f"),
               "unseen, difference": "host" if model == comparison.host else with_interval(
                   u.difference, u.difference_low, u.difference_high, "+.3f")}
        rows.append(row)
    return rows


def _unseen(comparison: Comparison) -> str:
    """What the mean over unseen hospitals is called."""
    hospitals = comparison.unseen_mean(comparison.host, comparison.labels.main).hospitals
    return f"{hospitals[0]} (unseen)" if len(hospitals) == 1 else f"unseen, mean of {len(hospitals)}"


def label_rows(comparison: Comparison, party: str, measure: Measure) -> list[dict[str, Any]]:
    """One row per model, one column per label."""
    return [{"model": comparison.shown(model), **{
        label: mean_and_interval(comparison, model, party, label, measure) + verdict(comparison, model, party, label,
                                                                                    measure)
        for label in comparison.labels.regions}} for model in comparison.model_names]


def p_value(p: float) -> str:
    return "-" if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def reading(comparison: Comparison) -> list[str]:
    """What came out, in sentences: a few per party, one per plane."""
    label, host = comparison.labels.main, comparison.host
    lines = []
    for party in comparison.parties:
        means = {m: comparison.summary(m, party, label).mean for m in comparison.model_names}
        known = {m: v for m, v in means.items() if math.isfinite(v)}
        cases = comparison.summary(host, party, label).cases
        if not known:
            lines.append(f"{party} ({comparison.whose(party)}, n = {cases}): no Dice is defined.")
            continue
        best = max(known, key=lambda m: known[m])
        lines.append(f"{party} ({comparison.whose(party)}, n = {cases}): the highest mean Dice is that "
                     f"of {comparison.shown(best)}, {known[best]:.3f}"
                     + (f"; {host} has {means[host]:.3f}." if best != host else "."))
        tests = [t for m in comparison.model_names if (t := comparison.test(m, party, label))]
        for side, sign in (("better", 1), ("worse", -1)):
            found = [comparison.shown(t.model) for t in tests if t.significant and t.difference * sign > 0]
            if found:
                who = _listed(found) if len(found) <= LISTED else \
                    f"{len(found)} of {len(tests)} models, {BETTER if sign > 0 else WORSE} in the table"
                lines.append(f"{party}: {side} than {host} (Dice; Wilcoxon, Holm, p < 0.05): {who}.")
        if tests and not any(t.significant or t.remark for t in tests):  # a remark says that no test could find any
            lines.append(f"{party}: no model differs from {host} (Dice; Wilcoxon, Holm, p < 0.05).")
    lines += _reading_unseen(comparison)
    for p in comparison.planes:
        lines.append(f"Dice on {p.own} against {p.partner}: on the Pareto front, from the best on {p.own} on: "
                     f"{_listed([comparison.shown(m) for m in p.front]) or 'none'}. It covers {p.hypervolume:.4f} "
                     f"(hypervolume from the reference point {p.reference[0]:g}, {p.reference[1]:g}; 1 is perfect)"
                     + (f"; without the marked models {p.unmarked_hypervolume:.4f}."
                        if p.unmarked_hypervolume != p.hypervolume else "."))
        if p.unseen:
            also = [comparison.shown(q.model) for q in p.points if q.on_unseen_front and not q.on_front]
            lines.append(f"With the mean Dice on unseen hospitals as third axis, {_listed(also) or 'no further model'} "
                         f"{'is' if len(also) < 2 else 'are'} on the front; it covers {p.unseen_hypervolume:.4f}.")
    return lines


def _reading_unseen(comparison: Comparison) -> list[str]:
    """Sentences on the mean over unseen hospitals, of which there must be several."""
    label, host = comparison.labels.main, comparison.host
    if len(comparison.unseen) < 2:
        return []
    means = {m: comparison.unseen_mean(m, label) for m in comparison.model_names}
    known = [m for m, u in means.items() if math.isfinite(u.mean)]
    title = f"Unseen hospitals ({_listed(list(means[host].hospitals))}), each counting alike"
    if not known:
        return [f"Unseen hospitals ({_listed(comparison.unseen)}): no mean Dice over them is defined."]
    best = max(known, key=lambda m: means[m].mean)
    lines = [f"{title}: the highest mean Dice is that of {comparison.shown(best)}, {means[best].mean:.3f}"
             + (f"; {host} has {means[host].mean:.3f}." if best != host else ".")]
    for side, sign in (("better", 1), ("worse", -1)):
        found = [comparison.shown(m) for m, u in means.items() if u.differs and u.difference * sign > 0]
        if found:
            lines.append(f"Unseen hospitals: {side} than {host} (95 % interval of the paired difference): "
                         f"{_listed(found) if len(found) <= LISTED else f'{len(found)} of {len(means) - 1} models'}.")
    return lines


def _listed(names: list[str]) -> str:
    """Names may hold commas."""
    return "; ".join(names)


def markdown(comparison: Comparison) -> str:
    """The content of `comparison.md`."""
    label, settings = comparison.labels.main, comparison.settings
    lines = ["# Models compared", "", *(f"- {line}" for line in reading(comparison)), ""]
    if comparison.unseen_means:
        lines += ["## Own, partner's, unseen", "", f"Mean Dice with 95 % interval; {label}. {UNSEEN_RULE}", "",
                  markdown_table(three_rows(comparison)), ""]
    for party in comparison.parties:
        lines += [f"## {party} ({comparison.whose(party)})", "",
                  f"Mean over cases with 95 % interval; {label}. {BETTER} better, {WORSE} worse than "
                  f"{comparison.host} after correction.", "", markdown_table(party_rows(comparison, party)), ""]
        if len(comparison.labels.regions) > 1:
            for measure in MEASURES:
                lines += [f"### {measure.heading} by label, {party}", "",
                          markdown_table(label_rows(comparison, party, measure)), ""]
    if comparison.legend:
        lines += ["## Marks", "", *(f"- {line}" for line in comparison.legend), ""]
    lines += ["## To know", "", f"- Surface Dice at a tolerance of {settings.tolerance:g} mm.",
              *(f"- {line}" for line in (*comparison.remarks, *CAVEATS)), ""]
    return "\n".join(lines)


def write_csv(comparison: Comparison, path: str) -> str:
    """Long format, `CSV_COLUMNS`; an empty value where a measure is not defined. `kind`: own, partner or unseen."""
    def write(temporary: str) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(CSV_COLUMNS)
            for s in comparison.scores:
                for measure in MEASURES:
                    value = getattr(s, measure.key)
                    table.writerow([s.model, s.party, s.case, s.label, measure.key,
                                    repr(float(value)) if math.isfinite(value) else "",
                                    comparison.kind(s.party)])
    atomically(path, write)
    return path
