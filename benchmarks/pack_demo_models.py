"""Pack the demo's two parents, as `nnUNetv2_stitch_demo --from_scratch` has trained them, into the zips of the
package, with nnU-Net's validation of A's; and say how their answers differ from those of others.

    python benchmarks/pack_demo_models.py FOLDER [-again FOLDER2] [-o OUTPUT_FOLDER]

FOLDER, FOLDER2: hold nnUNet_preprocessed and nnUNet_results with both parents. Weights become half precision. Prints,
for both parties' test cases, mean Dice of FOLDER's parents, of the packed ones and of FOLDER2's, how far FOLDER2's
weights are from the packed ones, and the zips' sha256, all of which are in the card beside the zips.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_stitch.demo.data import PARTIES, blocked_splits, load_party, write_party
from nnunetv2_stitch.demo.settings import CONFIGURATION, DEMO, FOLD, PLANS, environment
from nnunetv2_stitch.demo.shipped import MODELS, VALIDATION
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.evaluate import evaluate
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.exchange.install import unpack_party
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.checkpoint_writing import write_checkpoint
from nnunetv2_stitch.parties.model_folder import FINAL, read_model_folder

LICENCE = ("Apache-2.0, as the package it comes in; the training images are of others, named with their licences in "
           "ATTRIBUTION.md")


def trained(folder: Path, key: str) -> Path:
    return folder / "nnUNet_results" / PARTIES[key].dataset / f"{DEMO.trainer}__{PLANS}__{CONFIGURATION}"


def pack(folder: Path, key: str, output: Path, work: Path) -> None:
    """Write `output/KEY.zip`, with a signature for the partner alone: the host makes its own."""
    copy = work / key / trained(folder, key).name
    shutil.copytree(trained(folder, key), copy)
    path = copy / "fold_0" / FINAL
    checkpoint = load_checkpoint(str(path))
    halves = {name: value.half() for name, value in checkpoint["network_weights"].items()}
    write_checkpoint(str(path), {**checkpoint, "network_weights": halves})
    with environment_set(environment(str(folder))):
        done = export_party(replace(read_model_folder(str(copy)), dataset_name=PARTIES[key].dataset),
                            str(output / f"{key}.zip"), licence=LICENCE, signature=key == "B", say=print)
    print(f"{done.path}: {done.size / 1e6:.2f} MB, sha256 {done.sha256}")


def validate_host(output: Path, work: Path) -> None:
    """Write what nnU-Net's validation says of the packed A, as a training of A would end with it; without places of
    this machine. By nnU-Net's predictor: its trainer cannot load what is no training's checkpoint any more."""
    write_party("A", str(work / "raw"), ["Tr"])
    data, answers = work / "raw" / PARTIES["A"].dataset, work / "validation"
    model = unpack_party(str(output / "A.zip"), str(work / "packed"))
    cases = blocked_splits(load_party("A").names["Tr"])[FOLD]["val"]
    ending = model.dataset_json["file_ending"]
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model.path, (FOLD,))
    os.mkdir(answers)
    predictor.predict_from_files_sequential([[str(data / "imagesTr" / f"{case}_0000{ending}")] for case in cases],
                                            [str(answers / case) for case in cases])
    compute_metrics_on_folder(str(data / "labelsTr"), str(answers), str(answers / "summary.json"),
                              model.plans_manager.image_reader_writer_class(), ending,
                              model.label_manager.foreground_labels, num_processes=1, chill=True)
    found = read_json(str(answers / "summary.json"))
    for case in found["metric_per_case"]:
        for name in ("reference_file", "prediction_file"):
            case[name] = os.path.basename(case[name])
    write_json(str(output / VALIDATION.name), found)
    print(f"{output / VALIDATION.name}: mean Dice {found['foreground_mean']['Dice']:.4f} of {len(cases)} cases")


def say_how_far(key: str, packed: Path, again: Path) -> None:
    """Print how many numbers of a second training's checkpoint, in half precision, are those that are packed."""
    (theirs, mine) = (load_checkpoint(str(f / "fold_0" / FINAL))["network_weights"] for f in (packed, again))
    apart = torch.cat([(theirs[name].half().float() - mine[name].half().float()).abs().flatten() for name in theirs])
    print(f"{key} again: {int((apart == 0).sum())} of {apart.numel()} numbers in the checkpoint are the packed ones, "
          f"largest difference {float(apart.max()):.2g}")


def compare(models: dict[str, Path], work: Path) -> None:
    """Print mean Dice of every model on both parties' test cases, through nnU-Net's own predictor."""
    for key in PARTIES:
        write_party(key, str(work / "raw"), ["Ts"])
    found = evaluate([ModelEntry(name, str(path)) for name, path in models.items()],
                     [TestSet(key, str(work / "raw" / p.dataset)) for key, p in PARTIES.items()],
                     output=str(work / "out"))
    for name in models:
        print(name, *(f"{key} {found.summary(name, key, found.labels.main).mean:.4f}" for key in PARTIES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-again", type=Path, help="parents that were trained a second time")
    parser.add_argument("-o", type=Path, default=MODELS, help="where the zips go; those that are there are kept")
    args = parser.parse_args()
    os.makedirs(args.o, exist_ok=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        models: dict[str, Path] = {}
        for key in PARTIES:
            if not (args.o / f"{key}.zip").exists():
                pack(args.folder, key, args.o, Path(work))
                if key == "A":
                    validate_host(args.o, Path(work))
            unpacked = unpack_party(str(args.o / f"{key}.zip"), os.path.join(work, f"unpacked_{key}"))
            models |= {f"{key}_trained": trained(args.folder, key), f"{key}_packed": Path(unpacked.path)}
            if args.again is not None:
                models[f"{key}_again"] = trained(args.again, key)
                say_how_far(key, Path(unpacked.path), models[f"{key}_again"])
        compare(models, Path(work))


if __name__ == "__main__":
    main()
