"""MODEL_CARD.md of a merged model: what it was made of, by whose leave, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.exchange.card import NO_PROMISE, cell, facts_of, opening, shown_licence, table


def merged_card(dataset_json: Mapping, records: Sequence[Mapping]) -> str:
    """Markdown, from the contents of merge.json of each fold."""
    first = records[0]
    lines = opening(
        f"{cell(first['dataset'])}, {cell(first['plans_name'])}",
        "One nnU-Net merged from several: a weighted sum of their weights, with coefficients searched on the centre's "
        "data (guided model merging, arXiv 2503.20138). An ordinary model of the stock trainer; nothing has to be "
        "installed for it.", facts_of(dataset_json, first["configuration"], ("Coefficients per", first["granularity"])))
    for record in records:
        members = [(f"{cell(m['label'])}, {cell(m['model'])}", m["fold"],
                    "not said" if m["training_cases"] is None else m["training_cases"],
                    cell(shown_licence(m["licence"])), m["sha256"]) for m in record["members"]]
        lines += ["", f"## Fold {record['fold']}", "", f"Written: {cell(record['chosen'])}. Search: "
                  f"{record['search']['method']} on the loss '{record['search']['loss']}', seed "
                  f"{record['search']['seed']}.", "",
                  *table(("model", "fold", "training cases", "licence", "sha256 of the checkpoint"), members)]
        rows = [{**row, "model": cell(row["model"])} for row in record["table"]]
        lines += ["", f"{record['scored_by']} on the centre's validation cases, on the preprocessed grid, without "
                  f"mirroring. The coefficients were stopped on the same cases.", "", markdown_table(rows), "",
                  *map(cell, record["remarks"])]
    lines += ["", NO_PROMISE, "All members' weights went into this model: what their licences ask for binds it too."]
    return "\n".join(lines) + "\n"
