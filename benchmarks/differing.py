"""Parties that differ, on the demo's two heads: what stitching does beside the plain ensemble.

    python benchmarks/differing.py FOLDER [-variants grids grids_ct larger left_out] [-seed 1]

`grids`: A is a plain U-Net at 1.5 mm with CT normalisation, B a residual encoder U-Net at 1.25 mm with z-score, whose
labels have other names and another order. Both travel as zips. `grids_ct`: the same, B with CT normalisation and its
own constants. `larger`: B draws every structure one voxel larger.
`left_out`: B does not label the inner part. Dice is on A's validation cases, A's test cases and B's test cases, in A's
protocol, at the images' own resolution and without mirroring. The plain ensemble of stock pipelines averages what
stock nnU-Net predicts with either model; the other rows run in A's pipeline. What is finished is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import nibabel
import numpy as np
import torch
from scipy.ndimage import maximum_filter

from nnunetv2_stitch.bridging.names import NameMaps
from nnunetv2_stitch.demo.data import PARTIES, blocked_splits, load_party, write_party
from nnunetv2_stitch.demo.parents import plan_and_preprocess, train_parent
from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, PLANS, DemoSettings, environment
from nnunetv2_stitch.environment import environment_set, usable_cores
from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.inference.stock_predictor import stock_predictor
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.pipeline import train_stitch

A, B = (PARTIES[k].dataset for k in "AB")
BACKGROUND, CORTEX, INNER = 0, 1, 2


@dataclass(frozen=True)
class Variant:
    """How B's labels `(x, y)` and their names, and both parties' plans, are changed. `order`: B's outputs by A's
    labels, None where B has none."""

    labels: Callable[[np.ndarray], np.ndarray] = lambda labels: labels
    names: dict | None = None
    plans_a: Callable[[dict], None] = lambda plans: None
    plans_b: Callable[[dict], None] = lambda plans: None
    maps: NameMaps = NameMaps({}, {})
    order: tuple[int | None, ...] = (0, 1, 2)


def ct_normalisation(plans: dict) -> None:
    plans["configurations"][CONFIGURATION]["normalization_schemes"] = ["CTNormalization"]


def finer_residual_encoder_ct(plans: dict) -> None:
    finer_residual_encoder(plans)
    ct_normalisation(plans)


def finer_residual_encoder(plans: dict) -> None:
    configuration = plans["configurations"][CONFIGURATION]
    configuration.update(spacing=[1.25, 1.25], patch_size=[160, 160])
    architecture = configuration["architecture"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    arguments = architecture["arch_kwargs"]
    arguments["n_blocks_per_stage"] = [1, 1, 2, 2, 2]
    arguments["n_conv_per_stage_decoder"] = [1] * 4
    del arguments["n_conv_per_stage"]


def grown(labels: np.ndarray) -> np.ndarray:
    """One voxel larger: the inner part into cortex, cortex into the background."""
    inner = maximum_filter(labels == INNER, 3)
    return np.where(inner, INNER, np.where(maximum_filter(labels > 0, 3), CORTEX, BACKGROUND)).astype(labels.dtype)


def swapped(labels: np.ndarray) -> np.ndarray:
    return np.choose(labels, [BACKGROUND, INNER, CORTEX]).astype(labels.dtype)


GRIDS = Variant(labels=swapped, names={"background": 0, "White": 1, "grey_matter": 2}, plans_a=ct_normalisation,
                plans_b=finer_residual_encoder, maps=NameMaps({"white": "inner", "Grey matter": "cortex"}, {}),
                order=(0, 2, 1))
VARIANTS = {
    "grids": GRIDS,
    "grids_ct": replace(GRIDS, plans_b=finer_residual_encoder_ct),
    "larger": Variant(labels=grown),
    "left_out": Variant(labels=lambda x: np.where(x == CORTEX, CORTEX, BACKGROUND).astype(x.dtype),
                        names={"background": 0, "cortex": 1}, order=(0, 1, None)),
}


def make_parties(root: str, variant: Variant, settings: DemoSettings, device) -> None:
    for folder in ("raw", "preprocessed", "results"):
        os.makedirs(os.path.join(root, f"nnUNet_{folder}"), exist_ok=True)
    raw = os.path.join(root, "nnUNet_raw")
    for key, name, adapt in (("A", A, variant.plans_a), ("B", B, variant.plans_b)):
        if not os.path.isfile(os.path.join(raw, name, "dataset.json")):
            write_party(key, raw)
            if key == "B":
                change_labels(os.path.join(raw, name), variant)
        if not os.path.isdir(os.path.join(root, "nnUNet_preprocessed", name, f"{PLANS}_{CONFIGURATION}")):
            plan_and_preprocess(name, settings, blocked_splits(load_party(key).names["Tr"]), adapt)
        if not os.path.isfile(os.path.join(model_folder(root, name, settings), f"fold_{FOLD}", "checkpoint_final.pth")):
            train_parent(name, settings, device, settings.seed + ord(key))


def change_labels(dataset: str, variant: Variant) -> None:
    """Of the training cases only: tests are in A's protocol."""
    folder = os.path.join(dataset, "labelsTr")
    for name in os.listdir(folder):
        image = nibabel.load(os.path.join(folder, name))
        labels = variant.labels(np.asarray(image.dataobj)[..., 0])
        nibabel.save(nibabel.Nifti1Image(labels[..., None], image.affine), os.path.join(folder, name))
    if variant.names:
        path = os.path.join(dataset, "dataset.json")
        write_json(path, {**read_json(path), "labels": variant.names})


def model_folder(root: str, name: str, settings: DemoSettings) -> str:
    return os.path.join(root, "nnUNet_results", name, f"{settings.trainer}__{PLANS}__{CONFIGURATION}")


def stitch(root: str, variant: Variant, settings: DemoSettings, device):
    """The main job, from two zips."""
    zips = {}
    for key, name in (("a", A), ("b", B)):
        zips[f"model_{key}"] = os.path.join(root, f"{name}.zip")
        if not os.path.isfile(zips[f"model_{key}"]):
            export_party(read_model_folder(model_folder(root, name, settings)), zips[f"model_{key}"], folds=[FOLD])
    return train_stitch(None, None, **zips, device=device, continue_training=True, progress=False, folds=[FOLD],
                        names=variant.maps, epochs=settings.stitch_epochs, iterations=settings.stitch_iterations,
                        seed=settings.seed)


def probabilities(predictor, files: list[str]) -> np.ndarray:
    """`(labels, z, y, x)` of one case, in its own resolution."""
    image, properties = predictor.plans_manager.image_reader_writer_class().read_images(files)
    return predictor.predict_single_npy_array(image, properties, None, None, True)[1]


def by_labels_of_a(found: np.ndarray, order: tuple) -> np.ndarray:
    """B's probabilities in A's order; a label that B does not have is impossible."""
    return np.stack([np.zeros_like(found[0]) if o is None else found[o] for o in order])


def dice(predicted: np.ndarray, reference: np.ndarray) -> list[float]:
    both = [(predicted == v, reference == v) for v in (CORTEX, INNER)]
    return [2 * (p & r).sum() / (p.sum() + r.sum()) if p.any() or r.any() else np.nan for p, r in both]


def cases_of(root: str, settings: DemoSettings) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Image file and reference `(z, y, x)`, by test set."""
    raw = os.path.join(root, "nnUNet_raw")
    splits = read_json(os.path.join(root, "nnUNet_preprocessed", A, "splits_final.json"))[FOLD]["val"]
    sets = {"A, validation": (A, "Tr", splits), "A, test": (A, "Ts", None), "B, test": (B, "Ts", None)}
    found = {}
    for name, (dataset, split, wanted) in sets.items():
        folder = os.path.join(raw, dataset)
        names = wanted or [f[:-len(".nii.gz")] for f in sorted(os.listdir(os.path.join(folder, f"labels{split}")))]
        found[name] = [(os.path.join(folder, f"images{split}", f"{n}_0000.nii.gz"),
                        np.asarray(nibabel.load(os.path.join(folder, f"labels{split}", f"{n}.nii.gz")).dataobj).T)
                       for n in names]
    return found


def score(root: str, variant: Variant, settings: DemoSettings, device, folder: str) -> list[dict]:
    stock = [stock_predictor(read_model_folder(model_folder(root, n, settings)), [FOLD], device, False) for n in (A, B)]
    ours = {}
    for mode, name in (("partner", "B alone, in A's pipeline"), ("ensemble", "plain ensemble, in A's pipeline"),
                       ("stitched", "stitched, rule 2")):
        ours[name] = StitchedPredictor(device=device, use_mirroring=False, allow_tqdm=False,
                                       perform_everything_on_device=device.type == "cuda")
        ours[name].initialize_from_trained_model_folder(folder, [FOLD], mode=mode)
    rows: dict[str, dict] = {}
    for test_set, cases in cases_of(root, settings).items():
        scores: dict[str, list] = {}
        for image, reference in cases:
            with contextlib.redirect_stdout(io.StringIO()):
                a = probabilities(stock[0], [image])
                b = by_labels_of_a(probabilities(stock[1], [image]), variant.order)
                found = {"A alone": a, "B alone, own pipeline": b, "plain ensemble of both pipelines": (a + b) / 2,
                         **{name: probabilities(p, [image]) for name, p in ours.items()}}
            for name, value in found.items():
                scores.setdefault(name, []).append(dice(value.argmax(0), reference))
        for name, values in scores.items():
            means = np.nanmean(values, 0)
            rows.setdefault(name, {"": name}).update({f"{test_set}: cortex": means[0], f"{test_set}: inner": means[1]})
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("-variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("-seed", type=int, default=1)
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("-trainer", default=DemoSettings.trainer)
    parser.add_argument("-stitch_epochs", type=int, default=DemoSettings.stitch_epochs)
    parser.add_argument("-stitch_iterations", type=int, default=DemoSettings.stitch_iterations)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(usable_cores() if args.device == "cpu" else 1)
    settings = replace(DemoSettings(), trainer=args.trainer, stitch_epochs=args.stitch_epochs,
                       stitch_iterations=args.stitch_iterations, seed=args.seed)
    text = []
    for name in args.variants:
        root, variant = os.path.abspath(os.path.join(args.folder, name)), VARIANTS[name]
        with environment_set(environment(root)):
            make_parties(root, variant, settings, device)
            result = stitch(root, variant, settings, device)
            rows = score(root, variant, settings, device, result.model_folder)
        write_json(os.path.join(root, "scores.json"), {"rows": rows, "position": result.position,
                                                       "position_name": result.position_name})
        text += [f"## {name}", "", markdown_table(rows), ""]
    with open(os.path.join(args.folder, "differing.md"), "w") as file:
        file.write("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
