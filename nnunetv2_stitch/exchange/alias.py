"""Names under which a partner's model is installed, so that no two datasets have one id."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.plain import is_name, printable

WHOLE = re.compile(r"Dataset(\d{3})_(.+)")
HIGHEST = 999  # nnU-Net takes ids of three digits


def results_folder(results: str | None = None) -> str:
    """`results`, or nnUNet_results. Raises StitchError if it is not set or does not exist."""
    folder = results or nnUNet_results.get()
    if not folder:
        raise StitchError("environment variable nnUNet_results is not set; set it to the folder for trained models")
    if not os.path.isdir(folder):
        raise StitchError(f"nnUNet_results {folder} does not exist; create it or set nnUNet_results to the folder for "
                          f"trained models")
    return os.path.abspath(folder)


def free_dataset_name(alias: str, results: str) -> str:
    """`DatasetNNN_Name` as given if its id is free; `Name` gets the highest id that is free.

    Looks into `results` and into nnUNet_raw and nnUNet_preprocessed where these are set.

    Raises:
        StitchError: not such a name, the id is taken, or no id is free.
    """
    taken = _taken([results, nnUNet_raw.get(), nnUNet_preprocessed.get()])
    whole = WHOLE.fullmatch(alias)
    if not is_name(whole[2] if whole else alias) or (not whole and alias.lower().startswith("dataset")):
        raise StitchError(f"-as {printable(alias)}: give a name of letters, digits, - and single _, such as SiteB, or "
                          f"with a free id, such as Dataset{HIGHEST}_SiteB")
    if whole:
        if int(whole[1]) in taken:
            raise StitchError(f"-as {alias}: id {whole[1]} is taken by {taken[int(whole[1])]}; choose another id, or "
                              f"give -as {whole[2]} to take the next one that is free")
        return alias
    number = next((n for n in range(HIGHEST, 0, -1) if n not in taken), None)
    if number is None:
        raise StitchError(f"all ids from 1 to {HIGHEST} are taken; remove a dataset from {results}")
    return f"Dataset{number:03d}_{alias}"


def _taken(folders: Sequence[str | None]) -> dict[int, str]:
    """Ids in use, with a folder that uses each. nnU-Net goes by the three digits after `Dataset`."""
    found: dict[int, str] = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)) if folder and os.path.isdir(folder) else ():
            if digits := re.match(r"Dataset(\d{3})", name, re.IGNORECASE):
                found.setdefault(int(digits[1]), os.path.join(folder, name))
    return found
