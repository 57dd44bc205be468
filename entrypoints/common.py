"""What all commands share: how they fail, the types of their arguments, and the options each of them has.

Nothing heavy is imported at the top of any entry point: `--help` must not pay the 5 to 15 s that torch and nnU-Net
take to import.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from nnunetv2_stitch.distributed import SINGLE_PROCESS, process_from_environment
from nnunetv2_stitch.entrypoints.interrupts import EXIT_INTERRUPTED, hearing_interrupts
from nnunetv2_stitch.errors import LostProcess, StitchError
from nnunetv2_stitch.parties.read_cache import reading_once
from nnunetv2_stitch.parties.trust import trusting

if TYPE_CHECKING:
    import torch

EXIT_UNEXPECTED = 1
EXIT_BAD_INPUT = 2  # argparse exits with 2 as well


class Arguments(Protocol):
    """A parser, or one of its groups."""

    add_argument: Callable[..., argparse.Action]


def run(main: Callable[[], None], *, verbose: bool = False, resume: str | None = None, several: bool = False,
        trust: bool = False, speaks: bool = True) -> None:
    """Call `main` and turn what it raises into one line on stderr and an exit code.

    Args:
        main: the command's work, its arguments bound.
        verbose: print the traceback too.
        resume: the switch with which the same command goes on where it was interrupted, e.g. `--c`.
        several: the command knows how to be one of several processes, which torchrun starts.
        trust: `--trust` is given.
        speaks: this process is the one that says so on stderr, and that a second Ctrl-C has ended it.

    Raises:
        SystemExit: 2 for bad input (`StitchError`) and for files that cannot be used, 130 when interrupted, 1 for
            anything unexpected. Nothing is raised when `main` returns.
    """
    hint = f"; the same command with {resume} goes on" if resume else ""
    interrupted = f"interrupted{hint}"
    try:
        if not several and process_from_environment() != SINGLE_PROCESS:
            raise StitchError("of these commands only nnUNetv2_train_stitch runs in several processes; start this one "
                              "without torchrun")
        with hearing_interrupts(interrupted if speaks else ""), reading_once(), trusting(trust, aloud=speaks):
            main()
    except KeyboardInterrupt:
        _leave(interrupted, EXIT_INTERRUPTED, verbose)
    except LostProcess:
        _leave(f"stopped: another process of this job has ended{hint}", EXIT_UNEXPECTED, verbose)
    except BrokenPipeError:  # e.g. `... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except StitchError as error:
        _leave(f"error: {error}", EXIT_BAD_INPUT, verbose)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            _leave(f"error: {_describe_file_error(error)}", EXIT_BAD_INPUT, verbose)
        message = f"error: unexpected {type(error).__name__}: {error}"
        if not verbose:
            message += "; run again with --verbose for the traceback"
        _leave(message, EXIT_UNEXPECTED, verbose)


def run_parsed(main: Callable[[argparse.Namespace], None], args: argparse.Namespace, resume: str | None = None) -> None:
    """`run` of a command's `main` with its arguments, of a command that has `--trust`."""
    run(lambda: main(args), verbose=args.verbose, resume=resume, trust=args.trust)


def _describe_file_error(error: OSError) -> str:
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{error.strerror or type(error).__name__}: {files}"


def _leave(message: str, code: int, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    # Messages of other libraries may hold line breaks; scripts that read stderr are promised one line.
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)


def positive_int(text: str) -> int:
    """Argparse type: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return value


def not_negative(text: str, what: str = "number of at least 0") -> float:
    """Argparse type: a number of at least 0; `what` it is, for the message."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a {what}")
    return value


def positive(text: str) -> float:
    """Argparse type: a number above 0."""
    value = not_negative(text, "number above 0")
    if not value:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


#: The argument groups of all commands, in the order in which `--help` shows them.
GROUPS = {
    "parties": "whose models and whose data",
    "fitting": "how it is trained",
    "choosing": "what is taken and shown, and who answers",
    "memory": "less memory, for more time",
    "running": "what is written, and how the command runs",
}


def groups(parser: argparse.ArgumentParser, *names: str) -> list[Arguments]:
    """The argument groups of these names, which are some of GROUPS. Each takes arguments as a parser does."""
    return [parser.add_argument_group(name, GROUPS[name]) for name in names]


def add_old(group: Arguments, old: str, new: argparse.Action) -> None:
    """Add an old spelling of the flag `new`, which goes on to work and is not shown."""
    group.add_argument(old, dest=new.dest, type=new.type, default=argparse.SUPPRESS, metavar=new.metavar,
                       help=argparse.SUPPRESS)


def say_renamed(old: str, new: str) -> None:
    """The one line on stderr of a command that was called by its old name."""
    print(f"{old} is now called {new}; the old name goes on to work", file=sys.stderr, flush=True)


def add_budget(group: Arguments, epochs: int | None, rate: float | None = None) -> None:
    """Add `-epochs`, `-iterations` and `-seed` of the training of one network, and `-lr` where it begins with a
    finished one. The library's defaults, None for nnU-Net's own, are only shown: what is left open may go on as it was
    begun."""
    add = group.add_argument
    add("-epochs", type=positive_int, metavar="N",
        help="epochs. Default: " + ("nnU-Net's, 1000" if epochs is None else f"{epochs}"))
    add("-iterations", type=positive_int, metavar="N", help="iterations per epoch. Default: nnU-Net's, 250")
    if rate is not None:
        add("-lr", type=positive, metavar="R", help="learning rate at the beginning. It falls to zero as in nnU-Net, "
            f"which begins with 0.01 from scratch. Default: {rate}")
    add("-seed", type=int, help="seed, recorded beside the weights. Default: 12345")


#: what `--c` of the training of one network takes as it was, for its help
GOES_ON = ". Flags that are left out are as they were when it was begun, -f too"


def add_continue(group: Arguments, more: str = "") -> None:
    """Add `--c`; `more`: what else its help says."""
    group.add_argument("--c", dest="continue_training", action="store_true",
                       help=f"continue after an interruption; what is done is kept{more}")


def given(**values) -> dict:
    """Those that are not None: what the user gave."""
    return {name: value for name, value in values.items() if value is not None}


def add_device(group: Arguments) -> None:
    """Add `-device`."""
    group.add_argument("-device", choices=("cpu", "cuda", "mps"),
                       help="where to compute. CUDA_VISIBLE_DEVICES=X picks one GPU of several. Default: cuda when "
                            "available, else cpu")


def add_verbose(group: Arguments) -> None:
    """Add `--verbose`."""
    group.add_argument("--verbose", action="store_true", help="say more, and print the traceback of an error")


def add_trust(group: Arguments) -> None:
    """Add `--trust`."""
    group.add_argument("--trust", action="store_true",
                       help="let checkpoints run code and plans name any class in this run, as stock nnU-Net does. "
                            "Only for models whose sender you would let work at your keyboard")


def add_common(group: Arguments, trust: bool = False, bars: bool = True) -> None:
    """Add `-device`, `--disable_progress_bar` and `--verbose`, under nnU-Net's names, and `--trust` where models come
    from elsewhere. Without progress `bars` their flag is taken and not shown: nnU-Net's users write it everywhere."""
    if trust:
        add_trust(group)
    add_device(group)
    group.add_argument("--disable_progress_bar", action="store_true",
                       help="show no progress bars, for logs" if bars else argparse.SUPPRESS)
    add_verbose(group)


def resolve_device(name: str | None) -> torch.device:
    """Turn the value of `-device` into a device that is there.

    Raises:
        StitchError: the device was asked for by name and this machine, or this build of torch, lacks it.
    """
    from nnunetv2_stitch.devices import AUTO, find_device
    return find_device(name or AUTO, "-device", ("cuda",))


def ready_device(args: argparse.Namespace, processes: int = 1) -> torch.device:
    """The device of `-device`, and this process set up for it, one of `processes` that share the machine.

    Raises:
        StitchError: see `resolve_device`.
    """
    from nnunetv2_stitch.devices import set_up_device
    device = resolve_device(args.device)
    set_up_device(device, processes)
    return device


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def say_step(line: str) -> None:
    """Print the heading of a step, which nnU-Net's own output follows."""
    print(f"\n=== {line}", flush=True)


def print_validation(result) -> None:
    """Mean Dice of each fold that was validated, of a `TrainingResult`. nnU-Net's mean is NaN where no validation case
    has a label, in the reference or in the prediction."""
    for fold, dice in result.validation_dice.items():
        print(f"fold {fold}: mean validation Dice " + (f"{dice:.3f}" if math.isfinite(dice) else
                                                       "of nothing, no validation case has a label"))


def print_commands(commands: Sequence[tuple[str, str]]) -> None:
    """What to do next: a line that says what a command does, and below it the command."""
    print("".join(f"\n{what}:\n  {line}" for what, line in commands))
