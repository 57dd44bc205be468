"""What the commands that train one network have in common: `--dry_run`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nnunetv2_stitch.entrypoints.common import resolve_device

if TYPE_CHECKING:
    from nnunetv2_stitch.entrypoints.common import Arguments
    from nnunetv2_stitch.fitting.live_bytes import Need
    from nnunetv2_stitch.training import TrainingJob

MEMORY = "memory at the peak, estimated"


@contextmanager
def unpacking() -> Iterator[str]:
    """A folder for what has to be unpacked to be looked at. It is gone afterwards, so no error names a place in it."""
    from nnunetv2_stitch.errors import StitchError
    with TemporaryDirectory() as folder:
        try:
            yield folder
        except StitchError as error:
            raise StitchError(re.sub(rf"{re.escape(folder)}[/\\][^/\\\s]+[/\\]", "", str(error))) from error


def add_dry_run(group: Arguments) -> None:
    """Add `--dry_run`."""
    group.add_argument("--dry_run", action="store_true",
                       help="print what would be trained, from what and for how long, and its memory; write nothing")


def print_dry_run(prepare: Callable[[str], TrainingJob], args: argparse.Namespace) -> None:
    """Print what a command would do, and raise StitchError for what it would stop on; where nothing can be written that
    is only said, because a dry run is of use there too.

    Args:
        prepare: the checked job; takes a folder for what has to be unpacked to be looked at.
    """
    from nnunetv2_stitch.training.job import closed_folder
    resolve_device(args.device)
    with unpacking() as folder:
        job = prepare(folder)
        print_job(job)
    if closed := closed_folder(job):
        print(f"\nA run would stop here: no permission to write into {closed}.")
    print("\nNothing was written (--dry_run).")


def print_job(job: TrainingJob) -> None:
    """What is trained, from what, on which images, for how long, and where it goes."""
    record, folds = job.record, ", ".join(map(str, job.folds))
    rows = {record.source: f"{job.source.dataset_name} {job.source.identifier}, folds "
                           f"{', '.join(str(record.of_fold(f).get('fold', f)) for f in job.folds)}",
            "result": f"{job.dataset} {job.trainer}__{job.plans_name}__{job.configuration}, folds {folds}: "
                      f"{job.network_parameters:,} parameters"}
    for fold, state in job.states().items():
        rows[f"fold {fold}"] = state
    rows["training"] = ", ".join([
        f"{record.num_epochs or '1000 (nnU-Net)'} epochs of {record.num_iterations_per_epoch or '250 (nnU-Net)'} "
        f"iterations", *([f"learning rate {record.learning_rate:g}"] if hasattr(record, "learning_rate") else []),
        f"seed {record.seed}"])
    rows["images"] = f"{job.data_folder}{', which is to be preprocessed first' if job.waits_for_data else ''}"
    rows["writes"] = "\n".join(job.written)
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:<{width}}  " + text.replace("\n", "\n" + " " * (width + 2)))
    for remark in job.remarks:
        print(f"\n{remark}")
    if job.memory is not None:
        print()
        print_needs({"training": job.memory})


def print_needs(rows: Mapping[str, Need]) -> None:
    """A table of memory, in float32 and in mixed precision."""
    width = max(map(len, [MEMORY, *rows]))
    print(f"{MEMORY:<{width}}  {'float32':>11}  {'mixed (CUDA)':>12}")
    for name, need in rows.items():
        full, mixed = (f"{size / 2**30:.2f} GiB" for size in (need.full, need.mixed))
        print(f"{name:<{width}}  {full:>11}  {mixed:>12}")
