"""Command lines as a reader can copy them: paths below nnU-Net's folders in its variables, all else quoted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from nnunetv2_stitch.demo.settings import environment

SHOWN = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def exports(folder: str) -> str:
    """The line that sets nnU-Net's folders to those of a demo, for a shell in which its commands are repeated."""
    variables = environment(os.path.abspath(folder))
    return "export " + " ".join(f"{name}={shlex.quote(variables[name])}" for name in SHOWN)


def command_line(words: Sequence[str], folder: str) -> str:
    """A command with its arguments, as it is typed in a shell after `exports`.

    Args:
        folder: the demo's, absolute.

    Example:
        >>> command_line(["nnUNetv2_stitch_info", "911", "-m_b", "/demo/nnUNet_results/x"], "/demo")
        'nnUNetv2_stitch_info 911 -m_b "$nnUNet_results/x"'
    """
    return " ".join(_quoted(word, folder) for word in words)


def _quoted(word: str, folder: str) -> str:
    for name in SHOWN:
        before, found, after = word.partition(os.path.join(folder, name) + os.sep)
        if found:  # what is around it are names of ours, without a letter that a shell reads
            return f'{before}"${name}{os.sep}{after}"'
    near = os.path.relpath(folder)
    return shlex.quote(word if near.startswith(os.pardir) else word.replace(folder + os.sep, near + os.sep))
