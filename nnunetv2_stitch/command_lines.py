"""Commands to copy, as pages and the ends of commands show them; made of requests, lest a flag be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from shlex import join
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from nnunetv2_stitch.devices import find_device
from nnunetv2_stitch.parties.trust import is_trusting

if TYPE_CHECKING:
    import torch

Command = tuple[str, str]  # what it does, and the command
CASES = ("-i", "INPUT_FOLDER", "-o", "OUTPUT_FOLDER")


def ours(command: str, *words: object, device: torch.device | None) -> str:
    """A command of this package, with `-device` where that is not the one it takes by itself, and with `--trust` where
    this run has it. `device`: None for a command that computes nothing."""
    itself = device is None or device.type == find_device(preferred=("cuda",)).type
    other = [] if itself else ["-device", device.type]
    return _line(command, *words, *other, *(["--trust"] if is_trusting() else []))


def stock(command: str, *words: object, device: torch.device) -> str:
    """A command of nnU-Net's, which takes a GPU unless it is told."""
    return _line(command, *words, *([] if device.type == "cuda" else ["-device", device.type]))


def which(result: Any) -> list[str]:
    """How commands name the model of a result: `-d DATASET -c CONFIG -tr TRAINER -p PLANS -f FOLDS`."""
    return ["-d", result.dataset, "-c", result.configuration, "-tr", result.trainer, "-p", result.plans_name, "-f",
            *map(str, result.folds)]


def predicting(result: Any, device: torch.device, more: str = "") -> Command:
    """With stock nnU-Net; `more`: where."""
    return f"Predict with stock nnU-Net{more}", stock("nnUNetv2_predict", *CASES, *which(result), device=device)


def evaluating(models: Mapping[str, str], folds: Iterable[int | str], device: torch.device,
               parties: int = 2) -> Command:
    """On test cases of so many `parties`.

    Args:
        models: name -> folder, with how it answers.
        folds: of all of them, so that each answers by as many.
        device: where to predict.
    """
    named = [f"{name}={folder}" for name, folder in models.items()]
    sets = [f"{party}=TEST_CASES_OF_{party}" for party in ascii_uppercase[:parties]]
    return ("Evaluate on test cases with labels, yours and others'",
            ours("nnUNetv2_evaluate_stitched", "-models", *named, "-datasets", *sets, "-f", *folds, "-o",
                 "OUTPUT_FOLDER", device=device))


def flags(asked: Any, names: Mapping[str, str | None]) -> list[str]:
    """Flags and values of a request, those that are not at their defaults.

    Args:
        asked: a dataclass with a field per flag.
        names: the flag of every field; None for a field that is said otherwise, or has no flag.
    """
    words = []
    for field in fields(asked):
        flag, value = names[field.name], getattr(asked, field.name)
        if flag is not None and value != _default(field):
            words += [flag] if value is True else [flag, *(value if isinstance(value, (list, tuple)) else [value])]
    return [*map(str, words)]


def _default(field: Field) -> Any:
    return MISSING if field.default is MISSING else field.default


def _line(*words: object) -> str:
    return join(map(str, words))
