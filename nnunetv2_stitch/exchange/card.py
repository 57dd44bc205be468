"""MODEL_CARD.md: what a travelling model is, for people. Written from the manifest, by sender and receiver alike."""

from __future__ import annotations

from nnunetv2_stitch.exchange.manifest import Fold, Manifest
from nnunetv2_stitch.exchange.plain import printable

CARD = "MODEL_CARD.md"
INTENSITIES_KEPT = ("plans.json holds the mean, standard deviation, 0.5 and 99.5 percentile of the intensities inside "
                    "the training labels, per channel and over all cases: normalisation needs them.")
SIGNATURE_KEPT = ("The signature of each fold: mean and covariance, over tiles of all training cases, of the means and "
                  "standard deviations of the network's first feature maps, and seven quantiles of the validation "
                  "cases' density under these. A gate tells by it which images resemble the training images.")
NO_PROMISE = ("Weights may remember something of the images they were trained on. Treat them as data derived from "
              "patients.")


def card(manifest: Manifest) -> str:
    """Markdown."""
    facts = [
        ("Labels", ", ".join(f"{k} = {v}" for k, v in manifest.labels.items())),
        ("Channels", ", ".join(manifest.channels)),
        ("Training cases", "not said" if manifest.training_cases is None else str(manifest.training_cases)),
        ("Configuration", manifest.configuration),
        ("Network", manifest.network),
        ("Trainer", manifest.trainer),
        ("Plans", manifest.plans_name),
        ("Folds", ", ".join(f.fold for f in manifest.folds)),
        ("Checkpoint", manifest.checkpoint),
        ("Licence", manifest.licence or "not said: ask before you use or pass on this model"),
        ("Contact", manifest.contact or "not said"),
        ("Exported with", _versions(manifest.exported_with)),
        ("Trained with", _versions(manifest.trained_with)),
        *((f"Received as, {key}", value) for key, value in manifest.received_as.items()),
    ]
    lines = [f"# {cell(manifest.name)}", "", "A trained nnU-Net of one party.", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {cell(value)} |" for key, value in facts]
    lines += ["", "## Dice on validation cases", "", *_dice(manifest.folds), "", "## Inside", "", INTENSITIES_KEPT, "",
              *([SIGNATURE_KEPT, ""] if any("signature" in name for name in manifest.files) else []),
              NO_PROMISE, "", "Not inside: images, predictions, names of cases, image sizes, training logs, optimizer "
              "state, names of computers and folders."]
    if manifest.files:
        lines += ["", "## Files, sha256", "", "| file | sha256 |", "|---|---|"]
        lines += [f"| {cell(name)} | {digest} |" for name, digest in manifest.files.items()]
    return "\n".join(lines) + "\n"


def _dice(folds: tuple[Fold, ...]) -> list[str]:
    labels = list(dict.fromkeys(label for f in folds for label in f.dice or {}))
    if not labels:
        return ["Not known."]
    head = ["fold", *map(cell, labels)]
    rows = [[f.fold, *(_number((f.dice or {}).get(label)) for label in labels)] for f in folds]
    return ["Mean over the cases of each fold.", "", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head),
                                                                                          *rows))]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _versions(versions) -> str:
    return ", ".join(f"{k} {v}" for k, v in versions.items()) or "not known"


def cell(text: str) -> str:
    """One cell of a table: no line breaks, and nothing that Markdown or HTML would take for more than text."""
    plain = printable(text, 2000)
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in plain)
