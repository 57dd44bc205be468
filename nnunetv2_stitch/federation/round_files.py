"""What the centre keeps of every round: a file per model it holds, and last the state that names them.

The models' files are never changed, so a kill at any moment leaves the state of one round and all its models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.federation.buffer import PartyModel
from nnunetv2_stitch.federation.state import WEIGHTS_FILE, State, write_state
from nnunetv2_stitch.fileio import atomically

MODELS = "models"


def keep_round(work: str, state: State, entry: dict[str, Any], weights: dict[str, np.ndarray],
               models: Sequence[PartyModel]) -> State:
    """Write down a round in the folder `work`; returns the new state.

    Args:
        entry: what the round was, for the history.
        weights: the network after it, by name.
        models: that the centre holds after it.
    """
    folder = os.path.join(work, MODELS)
    names = {_name(m.party, m.asked_in): m for m in models}
    for name, model in names.items():
        if not os.path.isfile(os.path.join(folder, name)):
            atomically(os.path.join(folder, name), lambda temporary, m=model: save_file(dict(m.weights), temporary))
    state = replace(state, round=entry["round"], history=[*state.history, entry], weights=weights)
    write_state(os.path.join(work, WEIGHTS_FILE), state)
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if name not in names:
            os.remove(os.path.join(folder, name))
    return state


def kept_models(work: str, state: State) -> list[PartyModel]:
    """The models that were there after the state's round.

    Raises:
        StitchError: a file is missing or broken.
    """
    return [_read(os.path.join(work, MODELS, _name(m["party"], m["asked_in"])), m)
            for m in (state.history[-1]["models"] if state.history else ())]


def _name(party: str, asked_in: int) -> str:
    return f"{party}_{asked_in:05d}.safetensors"


def _read(path: str, entry: Mapping[str, Any]) -> PartyModel:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StitchError(f"{path} cannot be read ({type(error).__name__}), so the rounds cannot go on; delete the "
                          f"fold's folder and start again") from error
    return PartyModel(entry["party"], entry["asked_in"], entry["cases"], weights, tuple(entry["losses"]))
