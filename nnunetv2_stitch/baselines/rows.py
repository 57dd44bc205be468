"""The rows of a comparison: what each is called, what it needs beyond the two finished models, and how it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nnunetv2_stitch.folders import as_fold
from nnunetv2_stitch.stitching.setting import Setting

SHARES_DATA = "needs the images of both parties in one place"
SYNCHRONOUS = "needs all parties to train at the same time, over many rounds"
PARTNER_TRAINS = "needs the partner to train on its own images"


@dataclass(frozen=True)
class Row:
    """`key` names files, `name` is shown. `note` is what the row needs that a user of stitching does not have; empty
    where A's images and the two finished models are enough."""

    key: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """How a row predicts: with the model folder as it is, or, where `settings` are given, with the trained supernet
    in it under these settings, one per fold. `folds` are the model's own folds. `detail` is said of it in words;
    `named` is so short that it stands behind the row's name. `checkpoint_name` is of the model as it is."""

    model_folder: str
    folds: list[int | str]
    settings: Mapping[int | str, Setting] = field(default_factory=dict)
    detail: str = ""
    checkpoint_name: str = "checkpoint_final.pth"
    named: str = ""

    def to_json(self) -> dict:
        return {"model_folder": self.model_folder, "folds": list(self.folds), "detail": self.detail,
                "checkpoint_name": self.checkpoint_name, "named": self.named,
                "settings": {str(k): v.to_json() for k, v in self.settings.items()}}

    @classmethod
    def from_json(cls, value: Mapping) -> Answer:
        settings = {as_fold(k): Setting.from_json(v) for k, v in value["settings"].items()}
        return cls(value["model_folder"], list(value["folds"]), settings, value["detail"],
                   value["checkpoint_name"], value.get("named", ""))


ROWS = (
    Row("A_alone", "A alone"),
    Row("A_longer", "A trained on"),
    Row("B_alone", "B alone"),
    Row("plain_ensemble", "plain ensemble"),
    Row("plain_ensemble_logits", "plain ensemble, logits"),
    Row("weighted_ensemble", "weighted ensemble"),
    Row("stitched", "stitched, rule 2"),
    Row("stitched_rule1", "stitched, rule 1"),
    Row("stitched_rule3", "stitched, rule 3"),
    Row("stitched_loo", "stitched, other folds"),
    Row("stitched_label_free", "stitched, label-free"),
    Row("stitched_retain", "stitched, by retention"),
    Row("stitched_host_head", "stitched, rule 2, host's head"),
    Row("stitched_many", "stitched everywhere"),
    Row("guided", "guided stitching"),
    Row("direct", "direct stitches, rule 2"),
    Row("direct_many", "direct stitches everywhere"),
    Row("task", "task-loss stitches, rule 2"),
    Row("task_many", "task-loss stitches everywhere"),
    Row("adapted", "B adapted to A"),
    Row("adapted_only", "B adapted to A, not moved back"),
    Row("stitched_adapted", "stitched with B adapted, rule 2"),
    Row("gated", "gated"),
    Row("gated_adapted", "gated with B adapted"),
    Row("distilled", "distilled student"),
    Row("untaught", "untaught student"),
    Row("soup", "weight average"),
    Row("finetuned_B_on_A", "B fine-tuned on A"),
    Row("guided_merge", "B and B fine-tuned on A, merged"),
    Row("finetuned_A_on_B", "A fine-tuned on B", PARTNER_TRAINS),
    Row("pooled", "pooled data", SHARES_DATA),
    Row("federated", "federated (FedAvg)", SYNCHRONOUS),
)

#: Rows that need no double-batched stitches. Where only these are asked for, the plain ensembles are read off a model
#: that is stitched in one pass.
WITHOUT_DOUBLE_BATCHED = {"A_alone", "A_longer", "B_alone", "plain_ensemble", "plain_ensemble_logits",
                          "weighted_ensemble", "direct", "direct_many", "task", "task_many", "adapted", "adapted_only",
                          "soup", "finetuned_B_on_A", "guided_merge", "finetuned_A_on_B", "pooled", "federated"}

#: Keys that rows had before, in flags and in files.
OLD_KEYS = {"merged": "pooled"}
