"""The trained stitches that rows answer with: the user's own or made for the comparison, and copies of them that are
deployed with a gate, so that nothing is trained twice and nothing of the user's is changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace

import torch
from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_stitch.baselines.datasets import link
from nnunetv2_stitch.baselines.rows import Answer
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE
from nnunetv2_stitch.locks import plans_locked
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.model_folder import BASELINE_KEY
from nnunetv2_stitch.parties.preprocessed import FINGERPRINT
from nnunetv2_stitch.pipeline.guided import guide_folds
from nnunetv2_stitch.pipeline.identity import like, stitches_record, unlike_trained
from nnunetv2_stitch.pipeline.job import TRAINERS, Job, default_rule
from nnunetv2_stitch.pipeline.reporting import SELECTION_FILE
from nnunetv2_stitch.pipeline.run import stitches_are_trained, train_stitch
from nnunetv2_stitch.provenance import Provenance, begin
from nnunetv2_stitch.selection.case_scores import CaseScores, choose_by_retention
from nnunetv2_stitch.stitching.setting import Setting

GATE_RULE = default_rule(None, gate=True)


def find_or_train(job: Job, fit: str, device: torch.device, progress: bool, say: Callable[[str], None]) -> str:
    """The model folder of one way of fitting: the user's own, left as it is whatever position it was deployed at,
    where it was made of exactly this; else one that is made for the comparison.

    Args:
        fit: `double_batched`, `direct` or `task`.
        say: is told each step in a line.
    """
    stem = job.request.plans_name
    if fit != "double_batched":
        stem = f"{stem.removesuffix('Plans')}{fit.capitalize()}Plans"
    users = like(job, fit, stem)
    differ = unlike_trained(users)
    if differ == []:
        return users.model_folder
    record = stitches_record(job.configuration, job.folds, TRAINERS[fit])
    own = like(job, fit, record.name(stem))
    begin(own.model_folder, record)
    if differ:
        hint = (" (a model that came as a zip is known where it was unpacked: name the zip with -m_a or -m_b, as "
                "when it was stitched)" if "parents" in differ else "")
        say(f"{users.model_folder} was made with other {', '.join(differ)}{hint}; {own.request.plans_name} is "
            f"made for this comparison")
    if not stitches_are_trained(own):
        train_stitch(device=device, continue_training=True, progress=progress, say=say,
                     **{**vars(own.request), "comparison": True})
    return own.model_folder


def retained(job: Job, folder: str) -> Answer:
    """Both parents' maps averaged at the position that retention takes, the same in all folds.

    Raises:
        StitchError: the folds were swept before scores of single cases were kept.
    """
    found = choose_by_retention([CaseScores.read(os.path.join(folder, f"fold_{f}")) for f in job.folds],
                                job.request.tolerance)
    (position, why), = found.items()
    setting = Setting.average_at(position, combine=job.request.combine)
    return Answer(folder, job.folds, dict.fromkeys(job.folds, setting),
                  f"position {position}, {job.layout.position_name(position)}; {why.reason}")


def guided(job: Job, folder: str, device: torch.device, say: Callable[[str], None]) -> Answer:
    """Mixing weights of all switches, searched on the host's images for each fold."""
    found = guide_folds(job, folder, "ensemble", device, say)
    weights = [w for g in found.values() for pair in g.weights for w in pair]
    return Answer(folder, job.folds, {f: g.setting for f, g in found.items()},
                  f"mixing weights of {2 * len(job.positions)} switches, {min(weights):.2f} to {max(weights):.2f}")


def gated(job: Job, trained: str, device: torch.device, progress: bool, say: Callable[[str], None]) -> Answer:
    """A copy of the stitches in the model folder `trained`, deployed as `nnUNetv2_train_stitch --select -gate on`
    does.

    Args:
        trained: stays as it is.
        say: is told each step in a line.
    """
    record = _gate_record(job)
    name = record.name(f"{job.request.plans_name.removesuffix('Plans')}GatedPlans")
    own = replace(job, request=replace(job.request, plans_name=name, gate=True, rule=GATE_RULE, comparison=True))
    begin(own.model_folder, record)
    selection = os.path.join(own.model_folder, SELECTION_FILE)
    if not os.path.isfile(selection):  # which is written last
        _copy(own, trained)
        train_stitch(device=device, only_selection=True, progress=progress, say=say, **vars(own.request))
    found = read_json(selection)
    names = {p: n for key in found["positions"] for p, n in zip(found["positions"][key], found["names"][key])}
    gate = found["gate"]
    said = f"position {', '.join(f'{p}, {n}' for p, n in names.items())}; "
    if gate["chosen"] is None:
        return Answer(own.model_folder, job.folds, detail=f"{said}no gate: {gate['reason']}")
    at = gate["path"][gate["chosen"]]
    ahead = f", A ahead by {at['lead']:.0%} on images unlike both" if at["lead"] else ""
    alone = "" if all(gate["partners_known"]) else "; B's model came without a signature, so A's images alone are known"
    return Answer(own.model_folder, job.folds,
                  detail=f"{said}gate at the {at['quantile']:.0%} quantile{ahead}, {gate['reason']}{alone}")


def _gate_record(job: Job) -> Provenance:
    """What a gated model is made of: its stitches, and the signatures that came with the partner."""
    signatures = {}
    for fold, theirs in job.partner_folds[0].items():
        path = os.path.join(os.path.dirname(job.partner.checkpoint_path(theirs)), SIGNATURE_FILE)
        signatures[str(fold)] = sha256(path) if os.path.isfile(path) else None
    return Provenance("gated stitches", {**stitches_record(job.configuration, job.folds).made_from,
                                         "signatures": signatures, "rule": GATE_RULE,
                                         "way of averaging": job.request.combine})


def _copy(job: Job, trained: str) -> None:
    """The trained folds and their plans under the job's name."""
    for fold in job.folds:
        target = os.path.join(job.model_folder, f"fold_{fold}")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier call that was interrupted
        shutil.copytree(os.path.join(trained, f"fold_{fold}"), target, copy_function=_take,
                        ignore=shutil.ignore_patterns("validation", "*.lock"))
    for name in ("dataset.json", FINGERPRINT):
        if os.path.isfile(source := os.path.join(trained, name)):
            shutil.copyfile(source, os.path.join(job.model_folder, name))
    source = os.path.basename(trained).split("__")[1]
    with plans_locked(job.plans_file):
        for path, there in ((job.plans_file, os.path.join(str(nnUNet_preprocessed), job.host.dataset_name,
                                                          f"{source}.json")),
                            (os.path.join(job.model_folder, "plans.json"), os.path.join(trained, "plans.json"))):
            plans = read_json(there)
            write_json(path, {**plans, "plans_name": job.request.plans_name, BASELINE_KEY: True})


def _take(source: str, target: str) -> None:
    """Weights are linked: they are many, and deploying writes new files in their place."""
    (link if source.endswith((".pth", ".safetensors")) else shutil.copyfile)(source, target)
