"""The end of one fold's training: sweep all positions on its validation cases, choose, deploy."""

from __future__ import annotations

import os

from torch import distributed as dist
from tqdm import tqdm

from nnunetv2_stitch.fileio import atomically, write_json
from nnunetv2_stitch.fitting.session import STITCHES_FILE
from nnunetv2_stitch.selection.deploy import deploy_fold
from nnunetv2_stitch.selection.rules import choose_each
from nnunetv2_stitch.selection.sweep import PositionSweep, Sweep
from nnunetv2_stitch.stitching.setting import Setting

SWEEP_FILE = "sweep.json"


def finish_fold(trainer) -> None:
    """Sweep and deploy the fold of a stitch trainer. The setting is the one fixed in the plans or else the fold's
    best position with each partner (rule 1); nnUNetv2_train_stitch chooses again once all folds are there."""
    from safetensors.torch import save_file
    network, folder = trainer.stitched, trainer.output_folder
    if trainer.local_rank == 0:
        stitches = {k: v.detach().cpu().contiguous() for k, v in network.stitch_state().items()}
        atomically(os.path.join(folder, STITCHES_FILE), lambda path: save_file(stitches, path))
    sweep = sweep_fold(trainer)
    session = trainer.session
    if session.fixed_setting is None:
        best = choose_each([sweep], "1")[sweep.fold]
        session.setting = Setting.average_at(*best, output=session.setting.output, combine=session.setting.combine)
    if trainer.local_rank == 0:
        write_json(os.path.join(folder, SWEEP_FILE), sweep.to_json())
        deploy_fold(network, folder, session.setting)
    if trainer.is_ddp:
        dist.barrier()


def sweep_fold(trainer) -> Sweep:
    """Dice over position on the fold's validation cases; the cases are shared out over a distributed training."""
    network = trainer.stitched
    sweeper = PositionSweep(network, trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json,
                            trainer.device)
    _, keys = trainer.do_split()
    world = dist.get_world_size() if trainer.is_ddp else 1
    mine = sorted(keys)[trainer.local_rank::world]
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, mine)
    scores = []
    for key in tqdm(mine, desc=f"fold {trainer.fold}: {len(sweeper.positions)} positions", unit="case",
                    disable=trainer.disable_progress_bar or trainer.local_rank != 0):
        data, segmentation, _, _ = dataset.load_case(key)
        scores.append(sweeper.score_case(data[:], segmentation[:]))
    if trainer.is_ddp:
        parts: list = [None] * world
        dist.all_gather_object(parts, scores)
        scores = [score for part in parts for score in part]
    names = [network.matches[p]["host_path"] for p in sweeper.positions]
    return sweeper.summarise(trainer.fold, scores, names, trainer.session.r2())
