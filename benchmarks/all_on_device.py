"""All speed benchmarks one after the other, each in a process of its own, and one markdown table of their ratios.

    python benchmarks/all_on_device.py -device cuda -o speed.md

A script that fails or takes too long becomes a line of its own and does not stop the others.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from nnunetv2_stitch.environment import usable_cores

HERE = Path(__file__).resolve().parent
RUNS = (
    "graph_breaks",
    "forward -dim 2",
    "forward -dim 3",
    "closed_form_pass -dim 2",
    "closed_form_pass -dim 3",
    "double_batched -dim 2",
    "double_batched -dim 3",
    "sweep -dim 2",
    "sweep -dim 3",
    "parties",
)
COMPILED = ("forward -dim 2 -compile", "forward -dim 3 -compile")  # last: compiling may take minutes
LARGE_CASE = {"cuda": "large_case --disable_tta",
              "cpu": "large_case --disable_tta -size 160 160 96 -network small -patch 64 64 64"}
WITHOUT_DEVICE = ("graph_breaks",)  # a property of the code
RESULT = re.compile(r"^(ratio|graph breaks) ([\d.]+): (.+)$", re.MULTILINE)


def commands(device: str, threads: int, repeats: int, size: str | None, clock: str = "wall") -> list[list[str]]:
    """Arguments of each run, the script first."""
    found, common = [], ["-device", device, "-threads", str(threads), "-clock", clock]
    sizes = ["-size", size] if size else []
    for run in (*RUNS, LARGE_CASE[device], *COMPILED):
        script, *flags = run.split()
        if run == LARGE_CASE[device]:
            flags += common
        elif script not in WITHOUT_DEVICE:
            flags += [*common, "-repeats", str(repeats), *sizes]
        found.append([script, *flags])
    return found


def rows_of(output: str, command: str) -> list[str]:
    """Table rows `what | value | command` of what a script printed."""
    return [f"| {kind}: {what} | {value} | `{command}` |" for kind, value, what in RESULT.findall(output)]


def run(arguments: list[str], limit: float) -> tuple[str, str]:
    """What a script printed, and why it ended early if it did."""
    command = [sys.executable, str(HERE / f"{arguments[0]}.py"), *arguments[1:]]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    try:
        out, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
        out, _ = process.communicate()
        return out, f"stopped after {limit:.0f} s"
    lines = out.strip().splitlines() or [""]
    return out, "" if process.returncode == 0 else f"failed: {lines[-1][:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("-threads", type=int, default=usable_cores())
    parser.add_argument("-repeats", type=int, default=5)
    parser.add_argument("-clock", default="wall", choices=("wall", "processor"))
    parser.add_argument("-size", help="as the scripts take it; default theirs for the device")
    parser.add_argument("-only", nargs="+", help="scripts, by name")
    parser.add_argument("-limit", type=float, default=590, help="seconds for all; a script gets half of what is left")
    parser.add_argument("-o", help="markdown file; the table is printed in any case")
    args = parser.parse_args()
    begin, table = time.monotonic(), ["| what | value | command |", "|---|---|---|"]
    for arguments in commands(args.device, args.threads, args.repeats, args.size, args.clock):
        if args.only and arguments[0] not in args.only:
            continue
        command = f"python benchmarks/{arguments[0]}.py {' '.join(arguments[1:])}".strip()
        left = args.limit - (time.monotonic() - begin)
        output, why = run(arguments, left / 2) if left > 1 else ("", "no time left")
        table += rows_of(output, command) + ([f"| {why} | | `{command}` |"] if why else [])
        print(f"{time.monotonic() - begin:.0f} s: {command}\n{output}", flush=True)
        if args.o:  # every time, so that a kill leaves what is done
            Path(args.o).write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
