"""MODEL_CARD.md of a stitched model: what it was made of, by whose leave, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.exchange.card import NO_PROMISE, cell, facts_of, opening, shown_licence, table
from nnunetv2_stitch.stitching.plans import Stitching


def stitched_card(plans: Mapping, configuration: str, dataset_json: Mapping, dice: Sequence[Mapping],
                  remarks: Sequence[str]) -> str:
    """Markdown.

    Args:
        plans: the stitched ones, of which `configuration` is deployed.
        dataset_json: of the host.
        dice: the table of validation Dice, a row per fold.
        remarks: what else is to be known, a paragraph each.
    """
    stitched = plans["configurations"][configuration]
    arguments, parents = stitched["architecture"]["arch_kwargs"], Stitching.of(stitched).parents
    gate = [("Gate", describe_gate(arguments["gate"]))] if arguments.get("gate") else []
    facts = facts_of(dataset_json, configuration, ("Setting", describe(arguments["setting"])), *gate,
                     ("Positions with stitches", str(len(arguments["positions"] or arguments["matches"]))))
    rows = []
    for parent in parents:
        adapted = ", trained on with the host's images" if parent.adapted else ""
        model = cell(f"{parent.trainer}, {parent.plans}, {parent.configuration}{adapted}")
        rows += [(cell(parent.shown), model, entry["fold"], cell(shown_licence(parent.licence)), entry["sha256"])
                 for entry in parent.folds.values()]
    lines = opening(f"{cell(parents[0].dataset)}, stitched with {cell(', '.join(p.dataset for p in parents[1:]))}",
                    "A stitched ensemble of trained nnU-Nets (arXiv 2512.17592): an ordinary nnU-Net model of the "
                    "first, whose plans, preprocessing and labels it has.", facts)
    lines += ["", "## Parents", "", *table(("party", "model", "fold", "licence", "sha256 of the checkpoint"), rows),
              "", "## Dice on the host's validation cases", "", "On the preprocessed grid, without mirroring. A is the "
              "host, then come its partners in the order above.", "", markdown_table(list(dice)), "", *remarks,
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
