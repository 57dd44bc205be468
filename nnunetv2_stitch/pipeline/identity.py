"""What trained stitches were made of: from the plans that they are to be trained with, and from what is trained."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnunetv2_stitch.fitting.session import SAVERS
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.pipeline.job import TRAINERS, Job
from nnunetv2_stitch.pipeline.run import stitches_are_trained
from nnunetv2_stitch.provenance import Provenance
from nnunetv2_stitch.stitching.plans import STITCHING_KEY, Stitching

#: in the stitched plans -> in messages
TRAINING = {"trainer": "way of fitting", "num_epochs": "epochs", "num_iterations_per_epoch": "iterations",
            "seed": "seed", **{name: name for name in SAVERS}}


def stitches_record(configuration: Mapping, folds: Sequence[int | str], trainer: str | None = None) -> Provenance:
    """What the stitches of these folds are made of.

    Args:
        configuration: a stitched one, of plans. Neither the position and the gate that are deployed count, nor where
            parents lie.
        trainer: instead of the one that the plans name.
    """
    rest = copy.deepcopy(dict(configuration))
    network, stitching = rest.pop("architecture")["arch_kwargs"], Stitching.of(rest)
    del rest[STITCHING_KEY]
    network.pop("gate", None)
    setting, training = network.pop("setting"), stitching.training
    training = replace(training, trainer=trainer or training.trainer)
    made_from = {"folds": list(folds),
                 "parents": [{str(f): parent.sha256(f) for f in folds} for parent in stitching.parents],
                 "data": stitching.data, **{said: getattr(training, k) for k, said in TRAINING.items()},
                 "networks, layers or positions": network, "preprocessing": rest}
    if training.trainer == TRAINERS["task"]:  # its loss is that of the answer
        made_from["way of averaging"] = setting["combine"]
    return Provenance("stitches", made_from)


def like(job: Job, fit: str, plans_name: str) -> Job:
    """The same job for another way of fitting, under another name."""
    return replace(job, request=replace(job.request, fit=fit, plans_name=plans_name))


def unlike_trained(job: Job) -> list[str] | None:
    """In which words the trained stitches that are there under the job's name differ from what it would train; none
    where they are the same. None where not all its folds are trained.

    Each fold is asked by itself: its checkpoint holds the plans that it was trained with, while the plans beside it are
    those of the last training. What only saves memory may differ where the job leaves it at its default.
    """
    if not stitches_are_trained(job):
        return None
    found: dict[str, None] = {}
    for fold in job.folds:
        path = os.path.join(job.model_folder, f"fold_{fold}", FINAL)
        trained = load_checkpoint(path)["init_args"]["plans"]["configurations"][job.host.configuration]
        # The checkpoint names the trainer that predicts, the plans the one that trained.
        differ = stitches_record(trained, [fold]).differences(stitches_record(job.configuration, [fold], job.trainer))
        default = [s for s in SAVERS if getattr(job.request, s) == type(job.request).__dataclass_fields__[s].default]
        found |= dict.fromkeys(d for d in differ if d not in default)
    return list(found)
