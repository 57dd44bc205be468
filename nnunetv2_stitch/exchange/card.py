"""MODEL_CARD.md: what a model is, for people. Numbers only, nothing about single cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nnunetv2_stitch.exchange.manifest import Fold, Manifest
from nnunetv2_stitch.parties.model_folder import channel_names
from nnunetv2_stitch.parties.untrusted_json import printable
from nnunetv2_stitch.provenance import versions

CARD = "MODEL_CARD.md"
INTENSITIES_KEPT = ("plans.json holds the mean, standard deviation, 0.5 and 99.5 percentile of the intensities inside "
                    "the training labels, per channel and over all cases: normalisation needs them.")
SIGNATURE_KEPT = ("The signature of each fold: mean and covariance, over tiles of all training cases, of the means and "
                  "standard deviations of the network's first feature maps, and seven quantiles of the validation "
                  "cases' density under these. A gate tells by it which images resemble the training images.")
NO_PROMISE = ("Weights may remember something of the images they were trained on. Treat them as data derived from "
              "patients.")


def cell(text: str) -> str:
    """One cell of a table: no line breaks, and nothing that Markdown or HTML would take for more than text."""
    plain = printable(text, 2000)
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in plain)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table; cells are taken as they are."""
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def opening(title: str, what: str, facts: Iterable[tuple[str, str]]) -> list[str]:
    """The first lines of a card: its title, what the model is, and a table of facts."""
    return [f"# {title}", "", what, "", "| | |", "|---|---|", *(f"| {key} | {cell(value)} |" for key, value in facts)]


def facts_of(dataset_json: Mapping, configuration: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """The facts of a model that is made here, with `more` of its kind."""
    return [("Labels", shown_labels(dataset_json["labels"])), ("Channels", ", ".join(channel_names(dataset_json))),
            ("Configuration", configuration), *more, ("Made with", shown_versions(versions()))]


def shown_labels(labels: Mapping) -> str:
    return ", ".join(f"{name} = {value}" for name, value in labels.items())


def shown_licence(licence: str) -> str:
    """The licence of a model that goes into another."""
    return licence or "not said: ask before you pass this model on"


def shown_versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items()) or "not known"


def party_card(manifest: Manifest) -> str:
    """Of a party's model that travels: Markdown."""
    facts = [
        ("Labels", shown_labels(manifest.labels)),
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
        *([("Made from", manifest.made_from)] if manifest.made_from else []),
        ("Exported with", shown_versions(manifest.exported_with)),
        ("Trained with", shown_versions(manifest.trained_with)),
        *((f"Received as, {key}", value) for key, value in manifest.received_as.items()),
    ]
    lines = [*opening(cell(manifest.name), "A trained nnU-Net of one party.", facts), "", "## Dice on validation cases",
             "", *_dice(manifest.folds), "", "## Inside", "", INTENSITIES_KEPT, "",
             *([SIGNATURE_KEPT, ""] if any("signature" in name for name in manifest.files) else []),
             NO_PROMISE, "", "Not inside: images, predictions, names of cases, image sizes, training logs, optimizer "
             "state, names of computers and folders."]
    if manifest.files:
        lines += ["", "## Files, sha256", "",
                  *table(("file", "sha256"), ((cell(name), digest) for name, digest in manifest.files.items()))]
    return "\n".join(lines) + "\n"


def _dice(folds: Sequence[Fold]) -> list[str]:
    labels = list(dict.fromkeys(label for f in folds for label in f.dice or {}))
    if not labels:
        return ["Not known."]
    rows = [[f.fold, *(_number((f.dice or {}).get(label)) for label in labels)] for f in folds]
    return ["Mean over the cases of each fold.", "", *table(("fold", *map(cell, labels)), rows)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
