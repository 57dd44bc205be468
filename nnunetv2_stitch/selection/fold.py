"""The end of one fold's training: sweep all positions on its validation cases; under stock nnU-Net also deploy."""

from __future__ import annotations

import os

import numpy as np

from nnunetv2_stitch.distributed import barrier, broadcast
from nnunetv2_stitch.fileio import atomically, write_json
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.datasets import stored_contents
from nnunetv2_stitch.selection.case_scores import CASES_FILE, CaseScores
from nnunetv2_stitch.selection.deploy import deploy_fold
from nnunetv2_stitch.selection.dice import NothingToScore
from nnunetv2_stitch.selection.rules import choose_each
from nnunetv2_stitch.selection.scored_cases import ScoredCases, digest_of, score_cases
from nnunetv2_stitch.selection.sweep import SWEEP_FILE, PositionSweep, Sweep
from nnunetv2_stitch.stitching.setting import Setting
from nnunetv2_stitch.stitching.supernet import STITCHES_FILE


def finish_fold(trainer) -> None:
    """Keep the stitches of a stitch trainer's fold and sweep it. Where the trainer deploys by itself, which
    nnUNetv2_train_stitch does once all folds are there, deploy it as well: under the setting that the plans fix, else
    at the fold's best position with each partner (rule 1), or as the plain ensemble where nothing can be chosen by."""
    from safetensors.torch import save_file
    network, folder = trainer.stitched, trainer.output_folder
    if trainer.local_rank == 0:
        stitches = {k: v.detach().cpu().contiguous() for k, v in network.stitch_state().items()}
        atomically(os.path.join(folder, STITCHES_FILE), lambda path: save_file(stitches, path))
    sweep, cases, kept = sweep_fold(trainer)
    session = trainer.session
    if not sweep.scorable and session.fixed_setting is None:
        why = NothingToScore(f"the validation cases of fold {sweep.fold}", "choose a position with -rule 3")
        until = " Until then the plain ensemble without stitches is deployed." if session.deploys else ""
        trainer.print_to_log_file(f"WARNING: {why}.{until}")
    if session.deploys and session.fixed_setting is None:
        best = choose_each([sweep], "1")[sweep.fold] if sweep.scorable else ()
        session.setting = Setting.average_at(*best, output=session.setting.output, combine=session.setting.combine)
    if trainer.local_rank == 0:
        write_json(os.path.join(folder, CASES_FILE), cases.to_json())
        write_json(os.path.join(folder, SWEEP_FILE), sweep.to_json())
        kept.remove()
        if session.deploys:
            deploy_fold(network, folder, session.setting)
    barrier()


def sweep_fold(trainer) -> tuple[Sweep, CaseScores, ScoredCases]:
    """Dice over position on the fold's validation cases, that of single cases, and where these are kept until all is
    written; the cases are shared out over a distributed training."""
    network, folder = trainer.stitched, trainer.output_folder
    sweeper = PositionSweep(network, trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json,
                            trainer.device)
    keys = sorted(trainer.do_split()[1])
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, list(keys))
    stored = stored_contents(trainer.preprocessed_dataset_folder, keys)
    stitches = broadcast(sha256(os.path.join(folder, STITCHES_FILE)) if trainer.local_rank == 0 else None)
    kept = ScoredCases(os.path.join(folder, os.path.splitext(SWEEP_FILE)[0]),
                       {"stitches": stitches, "positions": sweeper.positions, "cases": digest_of(keys, stored),
                        "rows": len(sweeper.rows)})

    def score(case: int) -> np.ndarray:
        data, segmentation, _, _ = dataset.load_case(keys[case])
        return sweeper.score_case(data[:], segmentation[:])

    scores = score_cases(score, len(keys), kept, f"fold {trainer.fold}: {len(sweeper.positions)} positions",
                         not trainer.disable_progress_bar, trainer.print_to_log_file)
    names = [network.matches[p]["host_path"] for p in sweeper.positions]
    return (sweeper.summarise(trainer.fold, scores, names, trainer.session.r2()), CaseScores.of(sweeper, scores), kept)
