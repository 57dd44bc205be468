"""Whole prediction of one large 3d case: the stitched ensemble against nnUNetPredictor with each parent and the mean of
their probabilities, with wall time per part and peak memory.

    python benchmarks/large_case.py -device cuda -size 512 512 300
    python benchmarks/large_case.py -size 160 160 96 -network small -patch 64 64 64
    python benchmarks/large_case.py -m STITCHED_MODEL_FOLDER -parents MODEL_FOLDER MODEL_FOLDER

Without `-m`, networks are untrained, which takes as long. The image is finer than the plans by `-finer`, so that it is
resampled there and back. Both ways run in one process each, in turn. The stock way keeps probabilities in memory; the
stock commands write them to disk and read them again, which is left out here in their favour.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
import torch
from common import CLOCKS, SIZES, add_clock, machine, peak_bytes, plain_unet, say_ratio
from untrained_models import CLASSES, Models, write_case, write_models

from nnunetv2_stitch.environment import usable_cores
from nnunetv2_stitch.fileio import read_json

PREPROCESSING, NETWORK, EXPORT = PARTS = ("reading and preprocessing", "network", "resampling and export")
TOTAL, HOST_MEMORY, DEVICE_MEMORY = "whole prediction", "peak memory of the process, MiB", "peak device memory, MiB"
SPACING = (1.25, 1.0, 1.0)


class Parts(Counter):
    """Seconds by part."""

    def __init__(self, args: argparse.Namespace):
        super().__init__()
        self.device, self.clock = args.device, CLOCKS[args.clock]

    @contextmanager
    def timed(self, part: str):
        start = self._now()
        yield
        self[part] += self._now() - start

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.clock()


def initialised(cls, model: str, args: argparse.Namespace):
    predictor = cls(device=torch.device(args.device), use_mirroring=not args.disable_tta, allow_tqdm=False,
                    perform_everything_on_device=args.device == "cuda")
    predictor.initialize_from_trained_model_folder(model, (0,))
    return predictor


def logits_of(predictor, files: list[str], parts: Parts) -> tuple[torch.Tensor, dict]:
    with parts.timed(PREPROCESSING):
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case(files, None, predictor.plans_manager,
                                                    predictor.configuration_manager, predictor.dataset_json)
    with parts.timed(NETWORK):
        return predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu(), properties


def stitched_way(models: Models, files: list[str], output: str, args: argparse.Namespace) -> Parts:
    from nnunetv2.inference.export_prediction import export_prediction_from_logits

    from nnunetv2_stitch.inference.predictor import StitchedPredictor
    predictor, parts = initialised(StitchedPredictor, models.stitched, args), Parts(args)
    logits, properties = logits_of(predictor, files, parts)
    with parts.timed(EXPORT):
        export_prediction_from_logits(logits, properties, predictor.configuration_manager, predictor.plans_manager,
                                      predictor.dataset_json, output, num_threads_torch=args.threads)
    return parts


def stock_way(models: Models, files: list[str], output: str, args: argparse.Namespace) -> Parts:
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    parts, mean = Parts(args), None
    for model in models.parents:
        predictor = initialised(nnUNetPredictor, model, args)
        logits, properties = logits_of(predictor, files, parts)
        with parts.timed(EXPORT):
            _, found = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties,
                return_probabilities=True, num_threads_torch=args.threads)
            mean = found / len(models.parents) if mean is None else np.add(mean, found / len(models.parents), out=mean)
    with parts.timed(EXPORT):
        segmentation = np.asarray(predictor.label_manager.convert_probabilities_to_segmentation(mean))
        predictor.plans_manager.image_reader_writer_class().write_seg(
            segmentation.astype(np.uint8), output + predictor.dataset_json["file_ending"], properties)
    return parts


WAYS = {"stitched": stitched_way, "stock": stock_way}


def measure(way: str, models: Models, files: list[str], output: str, args: argparse.Namespace, queue=None) -> dict:
    """Seconds by part and peak MiB of one prediction."""
    torch.set_num_threads(args.threads)
    parts = WAYS[way](models, files, output, args)
    found = {**parts, TOTAL: sum(parts.values()),
             HOST_MEMORY: peak_bytes() / 2**20}
    if args.device == "cuda":
        found[DEVICE_MEMORY] = torch.cuda.max_memory_allocated() / 2**20
    if queue is not None:
        queue.put(found)
    return found


def measure_in_a_process(*arguments) -> dict:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(*arguments, queue))
    process.start()
    process.join()  # what is sent fits the queue's buffer
    if process.exitcode:
        raise SystemExit(f"{arguments[0]}: the process left with {process.exitcode} (-9: out of memory)")
    return queue.get()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-device", default="cpu", choices=("cpu", "cuda"))
    add("-threads", type=int, default=usable_cores())
    add("-repeats", type=int, default=1)
    add_clock(parser)
    add("-size", type=int, nargs=3, default=(512, 512, 300), metavar=("X", "Y", "Z"), help="voxels of the image")
    add("-network", choices=tuple(SIZES), default="planned", help="size of the parents' networks")
    add("-patch", type=int, nargs=3, default=(128, 128, 128))
    add("-finer", type=float, default=1.25, help="spacing of the plans by that of the image")
    add("-m", metavar="MODEL_FOLDER", help="a stitched model instead")
    add("-parents", nargs="+", metavar="MODEL_FOLDER", help="its parents' model folders")
    add("--disable_tta", action="store_true", help="no mirroring")
    return parser


def prepare(folder: str, args: argparse.Namespace) -> tuple[Models, list[str]]:
    if args.m:
        plans, dataset = (read_json(os.path.join(args.m, f"{name}.json")) for name in ("plans", "dataset"))
        models = Models(args.m, tuple(args.parents))
        spacing = plans["configurations"][os.path.basename(os.path.normpath(args.m)).split("__")[-1]]["spacing"]
        channels, ending = len(dataset["channel_names"]), dataset["file_ending"]
        back = plans["transpose_backward"]
        spacing = [spacing[i] for i in back]
    else:
        size = SIZES[args.network][3]
        models = write_models(os.path.join(folder, "results"), plain_unet(3, size.stages, size.width, size.widest),
                              args.patch, SPACING)
        spacing, channels, ending = SPACING, 1, ".nii.gz"
    return models, write_case(folder, args.size, [s / args.finer for s in spacing], channels, ending)


def report(found: dict[str, list[dict]], what: str) -> None:
    """Medians over the repetitions; a line per part and its ratio."""
    for part in found["stitched"][0]:
        ours, stock = (statistics.median(run[part] for run in found[way]) for way in ("stitched", "stock"))
        print(f"{part}: stitched {ours:.1f}, stock {stock:.1f}" + ("" if "MiB" in part else " s"))
        say_ratio(ours / stock, f"{what}, stitched to both parents and their mean: {part}")


def main(arguments: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(arguments)
    # Read when nnU-Net is imported, which the processes do anew.
    os.environ.setdefault("nnUNet_def_n_proc", str(args.threads))
    torch.set_num_threads(args.threads)
    print(f"{machine(args.device)}, {args.clock} time")
    with tempfile.TemporaryDirectory() as folder:
        models, files = prepare(folder, args)
        found: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(args.repeats):
            for way, runs in found.items():
                runs.append(measure_in_a_process(way, models, files, os.path.join(folder, way), args))
    size = "x".join(map(str, args.size))
    mirroring = "without mirroring" if args.disable_tta else "with mirroring"
    print(f"{size} voxels, {CLASSES} classes, {mirroring}" if not args.m else f"{size} voxels, {args.m}, {mirroring}")
    report(found, f"one case of {size} voxels")


if __name__ == "__main__":
    main()
