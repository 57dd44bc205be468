"""Many validation cases: a sweep that is killed and goes on, and what the number of cases and batches costs in memory.

Needs nnU-Net's three folders with a trained and preprocessed A and a trained B. A's validation cases are linked again
and again in a temporary folder, until there are enough of them; nothing else is written. Runs the real command.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from common import say_ratio
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

CODE = "from nnunetv2_stitch.entrypoints.train_stitch import train_stitch_entry; train_stitch_entry()"


def dataset_with(cases: int, host: str, fold: int, root: Path) -> None:
    """A's preprocessed folder in `root`, with `cases` validation cases in the fold."""
    source, target = Path(str(nnUNet_preprocessed), host), root / host
    target.mkdir(parents=True)
    splits = json.loads((source / "splits_final.json").read_text())
    originals = splits[fold]["val"]
    names = {f"many_{i:05d}": name for i, name in enumerate(islice(cycle(originals), cases))}
    splits[fold]["val"] = list(names)
    for entry in source.iterdir():
        if entry.name == "splits_final.json":
            (target / entry.name).write_text(json.dumps(splits))
        elif entry.is_dir():
            linked_folder(entry, target / entry.name, names)
        elif "Stitch" not in entry.name:
            (target / entry.name).symlink_to(entry)


def linked_folder(source: Path, target: Path, names: dict[str, str]) -> None:
    """The files of a folder, and those of the original cases under further names."""
    target.mkdir()
    copies: dict[str, list[str]] = {}
    for new, original in names.items():
        copies.setdefault(original, []).append(new)
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
        case = next((c for c in copies if file.name.startswith((f"{c}.", f"{c}_seg."))), None)
        for new in copies.get(case, ()):
            (target / file.name.replace(case, new, 1)).symlink_to(file)


def results_with(datasets: list[str], root: Path) -> None:
    """The trained models, without anything that was stitched before."""
    for dataset in datasets:
        (root / dataset).mkdir(parents=True)
        for model in Path(str(nnUNet_results), dataset).glob("*__*__*"):
            if "Stitch" not in model.name:
                (root / dataset / model.name).symlink_to(model)


class Command:
    """nnUNetv2_train_stitch with closed-form fitting on one fold, in a process of its own."""

    def __init__(self, args: argparse.Namespace, root: Path, cases: int, batches: int, resume: bool = False):
        self.root = root
        host, partner = (maybe_convert_to_dataset_name(d) for d in (args.dataset_a, args.dataset_b))
        if not resume:
            dataset_with(cases, host, args.fold, root / "preprocessed")
            results_with([host, partner], root / "results")
        env = {**os.environ, "nnUNet_preprocessed": str(root / "preprocessed"), "nnUNet_results": str(root / "results"),
               "OMP_NUM_THREADS": str(args.threads)}
        command = [host, partner, "-f", str(args.fold), "-fit", "direct", "-iterations", str(batches), "-positions",
                   args.positions, "-device", args.device, "--disable_progress_bar", "--c"]
        self.log = open(root / "log.txt", "a+")
        self.process = subprocess.Popen([sys.executable, "-c", CODE, *command], env=env, stdout=self.log,
                                        stderr=subprocess.STDOUT)

    def scored(self) -> list[int]:
        """Indices of the cases that are written down."""
        found = []
        for path in glob.glob(f"{self.root}/results/*/*Stitch*/fold_*/sweep.cases_*.jsonl"):
            for line in Path(path).read_text().splitlines():
                with contextlib.suppress(ValueError):
                    found += [value["case"]] if "case" in (value := json.loads(line)) else []
        return found

    def sweep(self) -> dict | None:
        path = next(iter(glob.glob(f"{self.root}/results/*/*Stitch*/fold_*/sweep.json")), None)
        return json.loads(Path(path).read_text()) if path else None

    def until(self, reached) -> tuple[list[int], int]:
        """Waits until `reached(self)`, then kills. Returns the cases last seen as done and the peak bytes of memory."""
        seen, peak = [], 0
        while not reached(self):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, StopIteration):
                seen = self.scored() or seen
                status = Path(f"/proc/{self.process.pid}/status").read_text()
                peak = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"the command left with {self.process.returncode}:\n{self.log.read()[-2000:]}")
            time.sleep(0.05)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return seen, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_a")
    parser.add_argument("dataset_b")
    parser.add_argument("-f", dest="fold", type=int, default=0)
    parser.add_argument("-cases", type=int, default=200)
    parser.add_argument("-batches", type=int, default=250, help="of the closed-form pass")
    parser.add_argument("-positions", default="blocks")
    parser.add_argument("-threads", type=int, default=1)
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    few = max(1, args.cases // 10), max(1, args.batches // 10)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        killed = Command(args, root / "killed", args.cases, args.batches)
        killed.until(lambda c: len(c.scored()) >= args.cases // 2)
        before = killed.scored()
        resumed = Command(args, root / "killed", args.cases, args.batches, resume=True)
        after, _ = resumed.until(lambda c: c.sweep() is not None)
        print(f"killed after {len(before)} of {args.cases} cases; of {len(after)} lines that were seen in the end, "
              f"{len(after) - len(set(after))} repeat a case")
        whole = Command(args, root / "whole", args.cases, args.batches)
        _, peak = whole.until(lambda c: c.sweep() is not None)
        same = whole.sweep() == resumed.sweep()
        print(f"the sweep is {'the same as' if same else 'NOT that of'} one that was not interrupted")
        _, small = Command(args, root / "few", *few).until(lambda c: c.sweep() is not None)
        print(f"peak of the process: {peak / 2**20:.0f} MiB with {args.batches} batches and {args.cases} cases, "
              f"{small / 2**20:.0f} MiB with {few[1]} and {few[0]}")
        say_ratio(peak / small, "peak memory of fitting and sweep, ten times the batches and cases to a tenth")


if __name__ == "__main__":
    main()
