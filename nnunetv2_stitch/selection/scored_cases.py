"""Scores of single cases, kept beside an unfinished sweep so that a kill costs no more than the case in work.

They name no case: a line holds the case's index, and one sha256 over all names tells whether the cases are the same.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from nnunetv2_stitch.distributed import all_gather, broadcast, rank_and_world_size

Scores = dict[int, np.ndarray]


def digest_of(*values) -> str:
    """sha256 over values with a repr."""
    return hashlib.sha256(repr(values).encode()).hexdigest()


class ScoredCases:
    """Files `<prefix>.cases_<rank>.jsonl`: a line saying what the scores are of, then a line per case. Every process
    writes its own."""

    def __init__(self, prefix: str | None, made_of: dict):
        """`made_of`: JSON that tells these scores from any others. Without a prefix nothing is kept."""
        self.prefix, self.made_of = prefix, made_of

    def read(self) -> Scores:
        """The scores that are there for the same, by index; files of anything else are removed."""
        found: Scores = {}
        for path in self._files():
            lines = _whole_lines(path)
            if not lines or lines[0] != {"made_of": self.made_of}:
                os.remove(path)
                continue
            found |= {line["case"]: np.array(line["dice"], dtype=float) for line in lines[1:]}
        return found

    def add(self, case: int, scores: np.ndarray) -> None:
        """Write down one case's Dice `(rows, labels)`; NaN becomes null."""
        if self.prefix is None:
            return
        path = f"{self.prefix}.cases_{rank_and_world_size()[0]}.jsonl"
        values = [[None if np.isnan(v) else float(v) for v in row] for row in scores]
        lines = [] if os.path.isfile(path) else [{"made_of": self.made_of}]
        text = "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in (*lines, {"case": case, "dice": values}))
        with open(path, "a") as f:  # it begins with a line break, which ends a line that a kill cut short
            f.write(f"\n{text}")

    def remove(self) -> None:
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def _files(self) -> list[str]:
        return sorted(glob.glob(f"{glob.escape(self.prefix)}.cases_*.jsonl")) if self.prefix is not None else []


def _whole_lines(path: str) -> list[dict]:
    """What can be read; a kill may have cut a line short."""
    lines = []
    with open(path) as f:
        for text in f:
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
    return lines


def score_cases(score: Callable[[int], np.ndarray], count: int, kept: ScoredCases, description: str, progress: bool,
                say: Callable[[str], None] = lambda line: None) -> Sequence[np.ndarray]:
    """`score` of the cases 0 to `count - 1`, in this order, those that are kept excepted; shared out over all
    processes of a group.

    Args:
        score: Dice `(rows, labels)` of a case.
        kept: where scores are kept; the caller removes them once the result is written.
        description: of the progress bar, and of the line by which `say` is told what is done already.
        progress: show the bar.
    """
    rank, size = rank_and_world_size()
    done: Scores = broadcast(kept.read() if rank == 0 else None)
    if done:
        say(f"{description}: {len(done)} of {count} cases are done")
    mine: Scores = {}
    for case in tqdm([i for i in range(count) if i not in done][rank::size], desc=description, unit="case",
                     disable=not progress or rank != 0):
        mine[case] = score(case)
        kept.add(case, mine[case])
    for part in all_gather(mine):
        done |= part
    return [done[case] for case in range(count)]
