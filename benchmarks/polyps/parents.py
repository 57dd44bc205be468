"""What the study of polyps trains: each hospital alone, longer, pooled, and each partner's model trained on by a host.

    python benchmarks/polyps/parents.py prepare RAW_FOLDER WORK
    python benchmarks/polyps/parents.py train WORK -jobs A A_longer B -seed 1 -at_once 2 -device cpu

RAW_FOLDER holds the five polyp datasets as nnU-Net raw datasets. Trainings that are finished are kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIGURATION, FOLD, PLANS, TRAINER = "2d", 0, "nnUNetPlans", "nnUNetTrainerStudy"
FEATURES, BATCH, PATCH = (16, 32, 64, 128, 128), 12, (128, 128)
HOSPITALS = {"A": "Dataset951_PolypKvasir", "B": "Dataset952_PolypClinic", "C": "Dataset954_PolypGenC2",
             "D": "Dataset953_PolypGenC1", "E": "Dataset955_PolypGenC3"}
POOLED = {"AB": "Dataset961_PolypPooledAB", "CA": "Dataset962_PolypPooledCA"}
STEPS, MORE, RATE = 3000, 1000, 1e-3


@dataclass(frozen=True)
class Training:
    """`data`: whose images. `plans_name` names the model. `start`: the training that it goes on from."""

    data: str
    plans_name: str = PLANS
    steps: int = STEPS
    start: str | None = None
    rate: float = RATE


TRAININGS = {
    **{h: Training(h) for h in "ABC"},
    **{f"{h}_longer": Training(h, "nnUNetLongerPlans", STEPS + MORE) for h in "ABC"},
    **{f"{p}_on_{h}": Training(h, f"nnUNetFrom{p}Plans", MORE, p) for p, h in ("BA", "AB", "AC")},
    "AB": Training("AB"), "CA": Training("CA"), "AB_longer": Training("AB", "nnUNetLongerPlans", STEPS + MORE),
    "B_long_on_A": Training("A", "nnUNetLongFromBPlans", STEPS, "B"),
    # The place in this table is part of a training's seed: new ones are added at the end.
    "E": Training("E"), "A_on_E": Training("E", "nnUNetFromAPlans", MORE, "A"),
    "federated_AB": Training("A", "nnUNetFederatedPlans"),  # by federated.py
}


def environment(work: Path) -> dict[str, str]:
    """nnU-Net's variables for this study; preprocessed data serve all seeds."""
    return {"nnUNet_raw": str(work / "raw"), "nnUNet_preprocessed": str(work / "preprocessed"),
            "nnUNet_extTrainer": str(HERE / "trainers"), "nnUNet_compile": "false", "nnUNet_wandb_enabled": "0"}


def dataset_of(name: str) -> str:
    return (HOSPITALS | POOLED)[name]


def prepare(raw: Path, work: Path, hospitals: str, plan_only: bool) -> None:
    """Plan, preprocess and pool. Validation cases are the groups (patients, sequences) whose place is 0 of 5."""
    os.environ.update(environment(work), nnUNet_results=str(work / "results"))
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    from nnunetv2_stitch.fileio import read_json, write_json
    processes = len(os.sched_getaffinity(0))
    for name in hospitals:
        dataset, number = dataset_of(name), int(dataset_of(name)[7:10])
        folder = work / "preprocessed" / dataset
        if not (work / "raw" / dataset).is_dir():
            shutil.copytree(raw / dataset, work / "raw" / dataset)
        if not (folder / f"{PLANS}.json").is_file():
            extract_fingerprint_dataset(number, num_processes=processes)
            os.environ["nnUNet_n_proc_DA"] = "1"
            plan_experiment_dataset(number)
            plans = small(read_json(str(folder / f"{PLANS}.json")))
            write_json(str(folder / "splits_final.json"), [split(work / "raw" / dataset)])
            write_json(str(folder / f"{PLANS}.json"), plans)
        if not plan_only and not (folder / f"{PLANS}_{CONFIGURATION}").is_dir():
            preprocess_dataset(number, configurations=[CONFIGURATION], num_processes=[processes])
    for name in () if plan_only else POOLED:
        if set(name) <= set(hospitals) and not (work / "preprocessed" / POOLED[name]).is_dir():
            pool(work, name)


def small(plans: dict) -> dict:
    """nnU-Net's plans with a small U-Net; spacing and normalisation stay as planned."""
    stages, configuration = len(FEATURES), plans["configurations"][CONFIGURATION]
    configuration.update(batch_size=BATCH, patch_size=list(PATCH))
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=stages, features_per_stage=list(FEATURES), kernel_sizes=[[3, 3]] * stages,
        strides=[[1, 1]] + [[2, 2]] * (stages - 1), n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[2] * (stages - 1))
    return plans


def split(folder: Path) -> dict[str, list[str]]:
    import csv
    with open(folder / "groups.csv") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "Tr"]
    groups = {g: i % 5 == 0 for i, g in enumerate(sorted({r["group"] for r in rows}))}
    return {part: sorted(r["case"] for r in rows if groups[r["group"]] == held) for part, held in
            (("train", False), ("val", True))}


def pool(work: Path, name: str) -> None:
    """Both hospitals' preprocessed cases in one dataset, linked, under the first one's plans."""
    from nnunetv2_stitch.fileio import read_json, write_json
    target, joined = work / "preprocessed" / POOLED[name], {"train": [], "val": []}
    for hospital in name:
        source = work / "preprocessed" / dataset_of(hospital)
        for part in (f"{PLANS}_{CONFIGURATION}", "gt_segmentations"):
            (target / part).mkdir(parents=True, exist_ok=True)
            for file in (source / part).iterdir():
                os.link(file, target / part / file.name)  # names begin with the hospital's
        for part, cases in read_json(str(source / "splits_final.json"))[0].items():
            joined[part] += cases
    first = work / "preprocessed" / dataset_of(name[0])
    for file in ("dataset.json", "dataset_fingerprint.json"):
        shutil.copyfile(first / file, target / file)
    write_json(str(target / "splits_final.json"), [joined])
    write_json(str(target / f"{PLANS}.json"), {**read_json(str(first / f"{PLANS}.json")), "dataset_name": POOLED[name]})


def model_folder(work: Path, seed: int, name: str) -> Path:
    job = TRAININGS[name]
    return work / f"seed_{seed}" / dataset_of(job.data) / f"{TRAINER}__{job.plans_name}__{CONFIGURATION}"


def checkpoint(work: Path, seed: int, name: str) -> Path:
    return model_folder(work, seed, name) / f"fold_{FOLD}" / "checkpoint_final.pth"


def train(work: Path, seed: int, name: str, device: str) -> None:
    """One training, in this process."""
    os.environ.update(environment(work), nnUNet_results=str(work / f"seed_{seed}"))
    import torch
    from nnunetv2.run.run_training import run_training

    from nnunetv2_stitch.fileio import read_json, write_json
    torch.set_num_threads(1)
    job, number = TRAININGS[name], 1000 * seed + list(TRAININGS).index(name)
    folder = work / "preprocessed" / dataset_of(job.data)
    plans = read_json(str(folder / f"{PLANS}.json"))
    plans_name = f"{job.plans_name}Seed{seed}"  # trainings of several seeds go on at once
    plans["plans_name"] = job.plans_name
    plans["configurations"][CONFIGURATION]["study"] = {
        "steps": job.steps, "lr": job.rate, "seed": number,
        "start": str(checkpoint(work, seed, job.start)) if job.start else None}
    write_json(str(folder / f"{plans_name}.json"), plans)
    run_training(dataset_of(job.data), CONFIGURATION, FOLD, TRAINER, plans_name, device=torch.device(device))


def train_all(work: Path, seed: int, names: list[str], device: str, at_once: int) -> None:
    """Trainings in processes of their own, `at_once` at a time; one begins when the one that it starts from is done."""
    waiting = [n for n in names if not checkpoint(work, seed, n).is_file()]
    running: dict[str, subprocess.Popen] = {}
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    while waiting or running:
        for name, process in list(running.items()):
            try:
                code = process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            del running[name]
            print(f"seed {seed}: {name} {'done' if code == 0 else f'failed, see {logs}'}", flush=True)
        ready = [n for n in waiting if not (s := TRAININGS[n].start) or checkpoint(work, seed, s).is_file()]
        for name in ready[:at_once - len(running)]:
            waiting.remove(name)
            with open(logs / f"{name}_{seed}.txt", "w") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, __file__, "one", str(work), "-jobs", name, "-seed", str(seed), "-device", device],
                    stdout=log, stderr=log)
        if waiting and not running:
            raise SystemExit(f"what {', '.join(waiting)} start from is not there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "plan", "train", "one"))
    parser.add_argument("folders", nargs="+", type=Path, help="RAW_FOLDER WORK, or WORK")
    parser.add_argument("-hospitals", default="ABCDE")
    parser.add_argument("-jobs", nargs="+", choices=tuple(TRAININGS), default=list(TRAININGS)[:-1])
    parser.add_argument("-seed", type=int, default=1)
    parser.add_argument("-at_once", type=int, default=2)
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()
    folders = [f.resolve() for f in args.folders]
    if args.what in ("prepare", "plan"):
        prepare(*folders, args.hospitals, args.what == "plan")
    elif args.what == "train":
        train_all(*folders, args.seed, args.jobs, args.device, args.at_once)
    else:
        train(*folders, args.seed, *args.jobs, args.device)


if __name__ == "__main__":
    main()
