"""Federated averaging of two hospitals, with the study's trainer: one model, as `parents.py` leaves the others.

    python benchmarks/polyps/federated.py WORK -seed 1 [-steps 3000]

Each of `steps / 200` rounds trains A's network for 100 steps on A's and for 100 steps on B's images from the same
weights, and takes the mean weighted by training cases. So the two make `steps` steps together, as the pooled model
does. Optimizer states stay with the hospital. `study.py -rows federated` predicts with the result.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from parents import CONFIGURATION, FOLD, PLANS, RATE, STEPS, TRAININGS, checkpoint, dataset_of, environment

NAME, ROUND = "federated_AB", 100


def train(work: Path, seed: int, steps: int, device: str) -> None:
    os.environ.update(environment(work), nnUNet_results=str(work / f"seed_{seed}"), nnUNet_n_proc_DA="0")
    import sys

    import torch
    from batchgenerators.utilities.file_and_folder_operations import load_json
    sys.path.insert(0, str(Path(__file__).parent / "trainers"))
    from nnUNetTrainerStudy import nnUNetTrainerStudy
    torch.set_num_threads(1)
    job, trainers = TRAININGS[NAME], {}
    for party in "AB":  # the host's network, each hospital's own images
        folder = work / "preprocessed" / dataset_of(party)
        plans = load_json(work / "preprocessed" / dataset_of("A") / f"{PLANS}.json")
        plans.update(dataset_name=dataset_of(party), plans_name=job.plans_name)
        plans["configurations"][CONFIGURATION]["study"] = {
            "steps": steps // 2, "lr": RATE, "seed": 1000 * seed + list(TRAININGS).index(NAME), "start": None}
        trainer = nnUNetTrainerStudy({**plans, "continue_training": False}, CONFIGURATION, FOLD,
                                     load_json(folder / "dataset.json"), torch.device(device))
        trainer.on_train_start()
        trainers[party] = trainer
    cases = {p: len(load_json(work / "preprocessed" / dataset_of(p) / "splits_final.json")[FOLD]["train"])
             for p in trainers}
    share = {p: n / sum(cases.values()) for p, n in cases.items()}
    mean = {k: v.clone() for k, v in trainers["A"].network.state_dict().items()}
    for number in range(steps // (2 * ROUND)):
        found = {}
        for party, trainer in trainers.items():
            trainer.network.load_state_dict(mean)
            trainer.current_epoch = number
            trainer.on_train_epoch_start()
            losses = [trainer.train_step(next(trainer.dataloader_train))["loss"] for _ in range(ROUND)]
            found[party] = {k: v.clone() for k, v in trainer.network.state_dict().items()}
            print(f"round {number + 1}, {party}: loss {sum(map(float, losses)) / len(losses):.4f}", flush=True)
        mean = {k: sum(share[p] * w[k] for p, w in found.items()) for k in mean}
    host = trainers["A"]
    host.network.load_state_dict(mean)
    host.save_checkpoint(str(checkpoint(work, seed, NAME)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("-seed", type=int, default=1)
    parser.add_argument("-steps", type=int, default=STEPS)
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()
    train(args.work.resolve(), args.seed, args.steps, args.device)


if __name__ == "__main__":
    main()
