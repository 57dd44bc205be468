"""The page of a comparison: everything that came out, in one file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nnunetv2_stitch.evaluation.comparison import Comparison
from nnunetv2_stitch.evaluation.metrics import MEASURES
from nnunetv2_stitch.evaluation.page import Figure, render
from nnunetv2_stitch.evaluation.rows import CAVEATS, UNSEEN_RULE, label_rows, party_rows, reading, three_rows
from nnunetv2_stitch.figures.heat_map import BETTER, WORSE

RULES = (
    "Dice: 2 TP / (2 TP + FP + FN) over voxels, as nnU-Net's summary.json. Where neither reference nor prediction has "
    "the label it is not defined, and the case is left out for this label.",
    "Surface Dice: share of the voxels of both surfaces that are at most {tolerance:g} mm from the other surface.",
    "HD95: the larger of both directions' 95th percentiles of the distance from surface to surface, in mm.",
    "In one-slice images surfaces are contours within the slice. Where only one of reference and prediction has the "
    "label, Dice and surface Dice are 0 and HD95 is the diagonal of the image.",
    "The foreground mean of a case is the mean over its labels. A label that a model does not have is left out for "
    "that model, and its foreground mean with it.",
    "Intervals: 95 %, bootstrap over cases (BCa, {resamples} resamples, seed {seed}). Tests: Wilcoxon's signed-rank "
    "test on paired cases against {host}, two-sided, Holm's correction over the other models, for each party, label "
    "and measure apart. An interval is of one mean alone and not corrected for the number of models, so that of a "
    "difference may leave out 0 where the test finds nothing; better and worse go by the test.",
    "Pareto front: the models that no other one beats on one party's cases without being worse on the other's. "
    "Hypervolume: the area of the pairs of means that a model of the front reaches or exceeds, from the reference "
    "point on; it grows only by a model that moves the front.",
)


def report(comparison: Comparison, figures: Sequence[Figure]) -> str:
    """The page, as HTML. Every name that comes from outside is escaped."""
    drawn: dict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        drawn[figure.section].append(figure)
    settings, parties = comparison.settings, comparison.parties
    return render(
        "comparison.html", comparison=comparison, drawn=drawn, measures=MEASURES, better=BETTER, worse=WORSE,
        title=f"{len(comparison.models)} model{'' if len(comparison.models) == 1 else 's'} on {' and '.join(parties)}",
        made_by=f"nnUNetv2_evaluate_stitched, nnunetv2-stitch {settings.version}", main=comparison.labels.main,
        host=comparison.model_names.index(comparison.host), reading=reading(comparison),
        three_rows=three_rows(comparison), unseen_rule=UNSEEN_RULE,
        pictured=[p for p in parties if drawn[f"worst {p}"]], parties=[_party(comparison, p) for p in parties],
        caveats=CAVEATS,
        rules=[r.format(tolerance=settings.tolerance, resamples=settings.resamples, seed=settings.seed,
                        host=comparison.host) for r in RULES],
        models=[comparison.shown(m.name) + (f", answering as {m.mode}" if m.mode else "") for m in comparison.models],
        labels=", ".join(f"{n} ({', '.join(map(str, v))})" for n, v in comparison.labels.regions.items()))


def _party(comparison: Comparison, party: str) -> dict:
    by_label = [(m.heading, label_rows(comparison, party, m)) for m in MEASURES]
    return {"name": party, "whose": comparison.whose(party), "rows": party_rows(comparison, party),
            "cases": comparison.summary(comparison.host, party, comparison.labels.main).cases,
            "by_label": by_label if len(comparison.labels.regions) > 1 else []}
