"""MODEL_CARD.md of a merged model: what it was made of, by whose leave, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.exchange.manifest import NO_PROMISE, cell, versions
from nnunetv2_stitch.parties.model_folder import channel_names


def merged_card(dataset_json: Mapping, records: Sequence[Mapping]) -> str:
    """Markdown, from the contents of merge.json of each fold."""
    first = records[0]
    lines = [f"# {cell(first['dataset'])}, {cell(first['plans_name'])}", "",
             "One nnU-Net merged from several: a weighted sum of their weights, with coefficients searched on the "
             "centre's data (guided model merging, arXiv 2503.20138). An ordinary model of the stock trainer; nothing "
             "has to be installed for it.", "", "| | |", "|---|---|"]
    labels = ", ".join(f"{k} = {v}" for k, v in dataset_json["labels"].items())
    for key, value in (("Labels", labels), ("Channels", ", ".join(channel_names(dataset_json))),
                       ("Configuration", first["configuration"]), ("Coefficients per", first["granularity"]),
                       ("Made with", ", ".join(f"{k} {v}" for k, v in versions().items()))):
        lines.append(f"| {key} | {cell(value)} |")
    for record in records:
        lines += ["", f"## Fold {record['fold']}", "", f"Written: {cell(record['chosen'])}. Search: "
                  f"{record['search']['method']} on the loss '{record['search']['loss']}', seed "
                  f"{record['search']['seed']}.", "", "| model | fold | training cases | licence | sha256 of the "
                  "checkpoint |", "|---|---|---|---|---|"]
        for m in record["members"]:
            licence = cell(m["licence"] or "not said: ask before you pass this model on")
            cases = "not said" if m["training_cases"] is None else m["training_cases"]
            lines.append(f"| {cell(m['label'])}, {cell(m['model'])} | {m['fold']} | {cases} | {licence} | "
                         f"{m['sha256']} |")
        rows = [{**row, "model": cell(row["model"])} for row in record["table"]]
        lines += ["", f"{record['scored_by']} on the centre's validation cases, on the preprocessed grid, without "
                  f"mirroring. The coefficients were stopped on the same cases.", "", markdown_table(rows), "",
                  *map(cell, record["remarks"])]
    lines += ["", NO_PROMISE, "All members' weights went into this model: what their licences ask for binds it too."]
    return "\n".join(lines) + "\n"
