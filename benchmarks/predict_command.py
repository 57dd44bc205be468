"""The whole command nnUNetv2_predict_stitched against what a user does today: predict with each parent, ensemble.

Needs a finished demo folder (nnUNetv2_stitch_demo -o FOLDER) and the commands on the PATH.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from common import machine

MEASURE = ("import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
           "print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")


def run(command: list[str], env: dict) -> tuple[float, float]:
    """Wall seconds and peak MiB of the largest process of a command."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], env=env, text=True, capture_output=True)
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return wall, int(done.stdout.rsplit("PEAK", 1)[1]) / 1024


def folder_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(folder) for f in files)


def model(results: str, dataset: str) -> tuple[str, str, str]:
    names = [n for n in os.listdir(os.path.join(results, dataset)) if n.count("__") == 2 and "Stitch" not in n]
    return tuple(names[0].split("__"))


def folds(results: str, dataset: str) -> list[str]:
    folder = os.path.join(results, dataset, "__".join(model(results, dataset)))
    return sorted(n[5:] for n in os.listdir(folder) if n.startswith("fold_"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo_folder")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("-repeats", type=int, default=3)
    args = parser.parse_args()
    root = os.path.abspath(args.demo_folder)
    variables = [f"nnUNet_{kind}" for kind in ("raw", "preprocessed", "results")]
    env = {**os.environ, **{v: os.path.join(root, v) for v in variables}}
    results = env["nnUNet_results"]
    host, partner = sorted(d for d in os.listdir(results) if d.startswith("Dataset"))
    images = os.path.join(env["nnUNet_raw"], host, "imagesTs")
    ours, stock = [], []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as out:
            wall, peak = run(["nnUNetv2_predict_stitched", "-i", images, "-o", out, "-d", host, "-device", args.device,
                              "--disable_progress_bar"], env)
            ours.append((wall, peak, folder_bytes(out)))
        with tempfile.TemporaryDirectory() as out:
            walls, peaks = [], []
            for dataset in (host, partner):
                trainer, plans, configuration = model(results, dataset)
                wall, peak = run(["nnUNetv2_predict", "-i", images, "-o", os.path.join(out, dataset), "-d", dataset,
                                  "-tr", trainer, "-p", plans, "-c", configuration, "-f", *folds(results, dataset),
                                  "-device", args.device, "--save_probabilities", "--disable_progress_bar"], env)
                walls.append(wall)
                peaks.append(peak)
            wall, peak = run(["nnUNetv2_ensemble", "-i", os.path.join(out, host), os.path.join(out, partner), "-o",
                              os.path.join(out, "ensemble")], env)
            stock.append((sum(walls) + wall, max(*peaks, peak), folder_bytes(out)))
    print(machine(args.device))
    names = ("wall s", "peak MiB of the largest process", "bytes written")
    for i, name in enumerate(names):
        a, b = (statistics.median(row[i] for row in rows) for rows in (ours, stock))
        print(f"{name}: ours {a:.1f}, stock {b:.1f}; ratio {a / b:.2f}")


if __name__ == "__main__":
    main()
