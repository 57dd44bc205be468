"""Three nnU-Nets from one start, merged in rounds by files alone: every way to merge, on every party's test cases.

    python benchmarks/rounds.py FOLDER -raw RAW_FOLDER -datasets Dataset911_A Dataset913_B Dataset912_C

The first party is the centre. All parties preprocess with its plans. The common start is its own model, trained as in
`benchmarks/study.py` and reused where FOLDER has it: a centre that has a model of its own and sends it to the others.
In each round every party, the centre too, trains on from what it was sent (`nnUNetv2_train_party`), sends a zip
(`nnUNetv2_export_party`), and the centre merges (`nnUNetv2_merge_party`, `-base` is what was sent out). Writes
`rounds.json` and `rounds.md` into FOLDER. What is finished is kept: call it again to go on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets import move_plans_between_datasets
from study import prepare_parents, splits_of

from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, PLANS, DemoSettings, environment
from nnunetv2_stitch.environment import environment_set, usable_cores
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.evaluate import evaluate
from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.exchange.parents import read_party
from nnunetv2_stitch.fileio import read_json, write_json, write_text
from nnunetv2_stitch.merging.baselines import fisher_merge, mixture, uniform
from nnunetv2_stitch.merging.members import fedavg_weights, make_atlas, read_members
from nnunetv2_stitch.merging.objective import CentreObjective
from nnunetv2_stitch.merging.run import FEDAVG, FISHER, GREEDY, GUIDED, UNIFORM, MergeRequest, merge_guided
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.training import train_from_merged
from nnunetv2_stitch.training.centre import opened
from nnunetv2_stitch.training.site import find_site

RECEIVED, SHARED = "Dataset900_Received", "nnUNetPlansShared"
WAYS = (UNIFORM, GREEDY, FEDAVG, FISHER, GUIDED)


@dataclass(frozen=True)
class Study:
    """Where everything lies, and what was asked for. `names`: the parties' datasets, the centre's first."""

    root: str
    names: list[str]
    args: argparse.Namespace
    device: torch.device
    seed: int

    @property
    def letters(self) -> str:
        return string.ascii_uppercase[:len(self.names)]

    def model(self, name: str, plans_name: str, trainer: str) -> str:
        return os.path.join(self.root, "nnUNet_results", name, f"{trainer}__{plans_name}__{CONFIGURATION}")

    def zip(self, letter: str, number: int) -> str:
        return os.path.join(self.root, "sent", f"{letter}_round{number}.zip")


def share_plans(study: Study, start: str) -> None:
    """The other parties' data, preprocessed with the plans in the zip that they got: as docs/how-to/merge-in-rounds.md
    says."""
    received = os.path.join(study.root, "nnUNet_preprocessed", RECEIVED)
    write_json(os.path.join(received, f"{PLANS}.json"), read_party(start).plans)
    for name in study.names[1:]:
        folder = os.path.join(study.root, "nnUNet_preprocessed", name)
        raw = os.path.join(study.root, "nnUNet_raw", name)
        if not os.path.isdir(raw):
            shutil.copytree(os.path.join(study.args.raw, name), raw)
        if not os.path.isfile(os.path.join(folder, f"{SHARED}.json")):
            extract_fingerprint_dataset(int(name[7:10]), num_processes=1, verbose=False)
            with environment_set({"nnUNet_n_proc_DA": "1"}):  # the planner sets as many threads
                plan_experiment_dataset(int(name[7:10]))
            move_plans_between_datasets(RECEIVED, name, PLANS, SHARED)
        data = read_json(os.path.join(folder, f"{SHARED}.json"))["configurations"][CONFIGURATION]["data_identifier"]
        done = os.path.join(folder, f"{data}.done")
        if not os.path.isfile(done):
            preprocess_dataset(int(name[7:10]), SHARED, configurations=[CONFIGURATION], num_processes=[1])
            write_text(done, "")
        splits = os.path.join(folder, "splits_final.json")
        if not os.path.isfile(splits):
            cases = sorted(f[:-len(".nii.gz")] for f in os.listdir(os.path.join(raw, "labelsTr")))
            write_json(splits, splits_of(cases))


def one_round(study: Study, number: int, start: str, base: str) -> dict:
    """`start`: the zip that the parties get; `base`: the same model's checkpoint at the centre.

    Returns:
        The round's record, with `zip` and `checkpoint` of what was written.
    """
    folder = os.path.join(study.root, f"round_{number}")
    done = os.path.join(folder, "round.json")
    if os.path.isfile(done):
        return read_json(done)
    args, centre = study.args, study.names[0]
    say = lambda line: print(f"--- round {number}: {line}", flush=True)  # noqa: E731
    for letter, name in zip(study.letters, study.names):
        if not os.path.isfile(study.zip(letter, number)):
            say(f"{letter} trains")
            result = train_from_merged(
                start, name, device=study.device, continue_training=True, validate=False, folds=[FOLD],
                plans_name=f"nnUNetRound{number}Plans", data_plans=PLANS if name == centre else SHARED,
                epochs=args.epochs, iterations=args.iterations, rate=args.lr, seed=study.seed + number)
            export_party(read_model_folder(result.model_folder), study.zip(letter, number))
    request = MergeRequest([study.zip(letter, number) for letter in study.letters], centre, CONFIGURATION, FOLD,
                           f"nnUNetMerged{number}Plans", base, steps=args.steps, plans_name=PLANS, seed=study.seed)
    merged = study.model(centre, request.name, "nnUNetTrainer")
    record_file = os.path.join(merged, f"fold_{FOLD}", "merge.json")
    if not os.path.isfile(record_file):
        merge_guided(request, study.device, say)
    export_party(read_model_folder(merged), study.zip("merged", number))
    record = read_json(record_file)
    labels = dict(zip((m["label"] for m in record["members"]), study.letters))
    scores = {labels.get(row["model"], row["model"]): row["score"] for row in record["table"]}
    found = {"round": number, "validation": scores, "chosen": labels.get(record["chosen"], record["chosen"]),
             "check": record["check"]["sentence"], "coefficients": {labels[k]: v for k, v in
                                                                    record["coefficients"].items()},
             "test": test_dice(study, every_way(study, request, record, folder), folder),
             "zip": study.zip("merged", number), "checkpoint": os.path.join(merged, f"fold_{FOLD}",
                                                                            "checkpoint_final.pth")}
    write_json(done, found)
    return found


def every_way(study: Study, request: MergeRequest, record: Mapping, folder: str) -> dict[str, str]:
    """Model folders of all members and all ways to merge them, whichever was written. Fisher merging is done again, as
    the command did it: of the same batches, because the seed is the same."""
    models = [read_party(path) for path in request.models]
    members = read_members(models, FOLD)
    atlas = make_atlas(members, request.base)
    site = find_site(request.dataset, CONFIGURATION, FOLD, members, request.name, PLANS)
    greedy = [record["greedy_soup"][label] for label in atlas.labels]
    found = torch.tensor([record["coefficients"][label] for label in atlas.labels], dtype=torch.float64)
    weights = {UNIFORM: mixture(atlas, uniform(atlas)), GREEDY: mixture(atlas, greedy),
               FEDAVG: mixture(atlas, fedavg_weights(members))}
    seed_everything(request.seed)
    with opened(site, study.device) as centre:
        objective = CentreObjective(centre, atlas)
        weights[FISHER] = fisher_merge(objective)
        folders = {}
        for letter, member in zip(study.letters, members):
            load_weights(objective.network, member.weights, member.path)
            folders[letter] = write_model(folder, f"member{letter}", models[0], objective.state())
        for way in WAYS:
            if way == GUIDED:
                atlas.write(objective.network, found)
            else:
                atlas.write_weights(objective.network, weights[way])
            folders[way] = write_model(folder, way.replace(" ", ""), models[0], objective.state())
    return folders


def write_model(folder: str, name: str, like, state: Mapping[str, torch.Tensor]) -> str:
    path = os.path.join(folder, "models", f"nnUNetTrainer__{name}__{CONFIGURATION}")
    os.makedirs(os.path.join(path, f"fold_{FOLD}"), exist_ok=True)
    for file in ("plans.json", "dataset.json"):
        shutil.copy(os.path.join(like.path, file), path)
    before = load_checkpoint(like.checkpoint_path(FOLD))
    torch.save({**before, "network_weights": dict(state)}, os.path.join(path, f"fold_{FOLD}", "checkpoint_final.pth"))
    return path


def test_dice(study: Study, folders: Mapping[str, str], output: str) -> dict[str, dict[str, float]]:
    """Mean Dice by model and party, on their test cases, with mirroring, as nnU-Net predicts."""
    sets = [TestSet(letter, os.path.join(study.root, "nnUNet_raw", name))
            for letter, name in zip(study.letters, study.names)]
    comparison = evaluate([ModelEntry(name, path) for name, path in folders.items()], sets, output=output,
                          device=study.device, continue_prediction=True)
    label = comparison.labels.main
    return {name: {s.name: comparison.summary(name, s.name, label).mean for s in sets} for name in folders}


def tables(studies: list[dict], letters: str) -> str:
    """Markdown: per round a row per model, means over seeds with each seed's value in brackets."""
    text = []
    for rounds in zip(*(s["rounds"] for s in studies)):
        text += [f"## Round {rounds[0]['round']}" if rounds[0]["round"] else "## The common start", ""]
        text += [f"Seed {s['seed']}: {found['check']}" for s, found in zip(studies, rounds) if "check" in found]
        rows = []
        for name in rounds[0]["test"]:
            best = [s["seed"] for s, r in zip(studies, rounds) if name == best_member(r, letters)]
            written = [s["seed"] for s, r in zip(studies, rounds) if name == r.get("chosen")]
            marks = [f"{what} ({', '.join(map(str, seeds))})" for what, seeds in (("best member", best),
                                                                                 ("written", written)) if seeds]
            rows.append({"model": f"{name}'s model" if name in letters else name,
                         "validation (centre)": spread([r["validation"].get(name) for r in rounds]),
                         **{f"{k}'s test cases": spread([r["test"][name][k] for r in rounds]) for k in letters},
                         "seeds": ", ".join(marks)})
        text += ["", markdown_table(rows), ""]
    return "\n".join(text)


def best_member(found: Mapping, letters: str) -> str | None:
    members = {k: v for k, v in found["validation"].items() if k in letters}
    return max(members, key=members.get, default=None)


def spread(values: list[float | None]) -> str:
    if None in values:
        return ""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({', '.join(f'{v:.3f}' for v in values)})"


def one_seed(folder: str, seed: int, args: argparse.Namespace) -> dict:
    study = Study(os.path.join(folder, f"seed_{seed}"), args.datasets, args, torch.device(args.device), seed)
    centre = args.datasets[0]
    with environment_set(environment(study.root)):
        os.makedirs(os.path.join(study.root, "sent"), exist_ok=True)
        settings = replace(DemoSettings(), trainer=args.trainer, seed=seed)
        prepare_parents(study.root, [centre], args.raw, settings, [FOLD], study.device)
        begun = read_model_folder(study.model(centre, PLANS, args.trainer))
        start, base = study.zip("start", 0), begun.checkpoint_path(FOLD)
        if not os.path.isfile(start):
            export_party(begun, start, folds=[FOLD])
        share_plans(study, start)
        test = test_dice(study, {"the common start": begun.path}, os.path.join(study.root, "round_0"))
        rounds = [{"round": 0, "validation": {}, "test": test}]
        for number in range(1, args.rounds + 1):
            rounds.append(one_round(study, number, start, base))
            start, base = rounds[-1]["zip"], rounds[-1]["checkpoint"]
    return {"seed": seed, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("-raw", required=True, help="nnU-Net raw folder that holds -datasets")
    parser.add_argument("-datasets", nargs="+", required=True, metavar="DATASET", help="the centre's first")
    parser.add_argument("-rounds", type=int, default=3)
    parser.add_argument("-epochs", type=int, default=2, help="per party and round")
    parser.add_argument("-iterations", type=int, default=100, help="per epoch")
    parser.add_argument("-lr", type=float, default=1e-3)
    parser.add_argument("-steps", type=int, default=100, help="of the search of coefficients")
    parser.add_argument("-seeds", type=int, nargs="+", default=[1])
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("-trainer", default=DemoSettings.trainer, help="of the common start")
    args = parser.parse_args()
    torch.set_num_threads(usable_cores() if args.device == "cpu" else 1)
    folder, letters, studies = os.path.abspath(args.folder), string.ascii_uppercase[:len(args.datasets)], []
    for seed in args.seeds:
        studies.append(one_seed(folder, seed, args))
        write_json(os.path.join(folder, "rounds.json"), studies)
        write_text(os.path.join(folder, "rounds.md"), tables(studies, letters))
    print(tables(studies, letters))


if __name__ == "__main__":
    main()
