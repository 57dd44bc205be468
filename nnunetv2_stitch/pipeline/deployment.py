"""Deploy: the chosen setting in the plans and in every fold, and what is deployed there."""

from __future__ import annotations

import os

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.locks import plans_locked
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.checkpoint_writing import is_deployed
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.pipeline.choosing import Chosen
from nnunetv2_stitch.pipeline.gating import FoundGate
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.selection.deploy import GATE, deploy_fold, write_setting
from nnunetv2_stitch.selection.scored_cases import digest_of
from nnunetv2_stitch.stitching.network import SETTING_KEY
from nnunetv2_stitch.stitching.setting import Setting, decode_setting
from nnunetv2_stitch.stitching.supernet import load_supernet


def deploy(job: Job, chosen: Chosen, gate: FoundGate | None = None) -> None:
    """Write the setting, and the gate if there is one, into plans and checkpoints of all folds.

    Raises:
        StitchError: parents or stitches missing or changed.
    """
    plans_files = [job.plans_file, os.path.join(job.model_folder, "plans.json")]
    with plans_locked(job.plans_file):
        write_setting(plans_files, job.host.configuration, chosen.settings[job.folds[0]],
                      gate.to_json() if gate else None)
    plans = read_json(job.plans_file)
    for fold in job.folds:
        network = load_supernet(plans, job.host.configuration, job.host.dataset_json, fold, job.model_folder,
                                str(nnUNet_results))
        if gate and gate.options:
            network.load_state_dict({**network.state_dict(), **gate.statistics[fold]})
        deploy_fold(network, os.path.join(job.model_folder, f"fold_{fold}"), chosen.settings[fold])


def deployed(job: Job) -> Chosen:
    """What the folds' checkpoints hold.

    Raises:
        StitchError: a fold is trained but not deployed.
    """
    return Chosen({f: deployed_setting(job, f) for f in job.folds})


def deployed_setting(job: Job, fold) -> Setting:
    return decode_setting(_deployed_weights(job, fold)[SETTING_KEY])


def deployed_gate(job: Job, fold) -> str | None:
    """A digest of the fold's gate; None where it has none."""
    arguments = read_json(job.plans_file)["configurations"][job.host.configuration]["architecture"]["arch_kwargs"]
    if arguments.get("gate") is None:
        return None
    weights = _deployed_weights(job, fold)
    return digest_of(arguments["gate"], [(k, v.tolist()) for k, v in sorted(weights.items()) if k.startswith(GATE)])


def _deployed_weights(job: Job, fold) -> dict:
    path = os.path.join(job.model_folder, f"fold_{fold}", FINAL)
    checkpoint = load_checkpoint(path)
    weights = checkpoint["network_weights"]
    if SETTING_KEY not in weights:
        raise StitchError(f"{path} holds no stitched ensemble; delete its folder and train fold {fold} again")
    if not is_deployed(checkpoint):
        raise StitchError(f"the stitches of fold {fold} are trained, but no position is chosen and deployed yet; run "
                          f"the same command with --c")
    return weights
