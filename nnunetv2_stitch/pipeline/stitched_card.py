"""MODEL_CARD.md of a stitched model: what it was made of, by whose leave, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.exchange.manifest import NO_PROMISE, cell, versions
from nnunetv2_stitch.parties.model_folder import channel_names
from nnunetv2_stitch.stitching.plans import Stitching


def stitched_card(plans: Mapping, configuration: str, dataset_json: Mapping, table: Sequence[Mapping],
                  remarks: Sequence[str]) -> str:
    """Markdown, from the stitched `plans` and the table of validation Dice per fold."""
    stitched = plans["configurations"][configuration]
    arguments, parents = stitched["architecture"]["arch_kwargs"], Stitching.of(stitched).parents
    lines = [f"# {cell(parents[0].dataset)}, stitched with {cell(', '.join(p.dataset for p in parents[1:]))}", "",
             "A stitched ensemble of trained nnU-Nets (arXiv 2512.17592): an ordinary nnU-Net model of the first, "
             "whose plans, preprocessing and labels it has.", "", "| | |", "|---|---|"]
    labels = ", ".join(f"{k} = {v}" for k, v in dataset_json["labels"].items())
    for key, value in (("Labels", labels), ("Channels", ", ".join(channel_names(dataset_json))),
                       ("Configuration", configuration), ("Setting", describe(arguments["setting"])),
                       *([("Gate", describe_gate(arguments["gate"]))] if arguments.get("gate") else []),
                       ("Positions with stitches", str(len(arguments["positions"] or arguments["matches"]))),
                       ("Made with", ", ".join(f"{k} {v}" for k, v in versions().items()))):
        lines.append(f"| {key} | {cell(value)} |")
    lines += ["", "## Parents", "", "| party | model | fold | licence | sha256 of the checkpoint |",
              "|---|---|---|---|---|"]
    for parent in parents:
        adapted = ", trained on with the host's images" if parent.adapted else ""
        model = cell(f"{parent.trainer}, {parent.plans}, {parent.configuration}{adapted}")
        licence = cell(parent.licence or "not said: ask before you pass this model on")
        lines += [f"| {cell(parent.shown)} | {model} | {entry['fold']} | {licence} | {entry['sha256']} |"
                  for entry in parent.folds.values()]
    lines += ["", "## Dice on the host's validation cases", "", "On the preprocessed grid, without mirroring. A is the "
              "host, then come its partners in the order above.", "", markdown_table(list(table)), "", *remarks,
              *([""] if remarks else []),
              NO_PROMISE, "The weights of all parents are inside: what their licences ask for binds this model too."]
    return "\n".join(lines) + "\n"


def describe_gate(gate: Mapping) -> str:
    """A gate's options in words."""
    known = sum(map(bool, gate["known"]))
    return (f"each image has its own shares of the parties; threshold at the {gate['quantile']:.0%} quantile, the host "
            f"ahead by {gate['lead']:.0%} elsewhere; signatures of the host and of {known} of {len(gate['known'])} "
            f"partners")


def describe(setting: Mapping) -> str:
    """A switch setting in words."""
    switches = setting.get("switches", {})
    weights = [w for s in switches.values() for w in (s if isinstance(s, list) else [s]) if isinstance(w, float)]
    output = f"output: {setting.get('output', 'ensemble')} of {setting.get('combine', 'probabilities')}"
    if weights:
        return f"mixing weights from {min(weights):.2f} to {max(weights):.2f} at {len(switches)} positions; {output}"
    states = {s if isinstance(s, str) else " and ".join(s) for s in switches.values()}
    where = f"position {', '.join(switches)} on {'/'.join(sorted(states))}" if switches else "no stitch active"
    return f"{where}; {output}"
