"""What the server keeps of every round: the averaged weights and the record of all rounds, in one file.

One file, because a kill between two would leave weights of one round and the record of another.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically

WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class State:
    """After `round` rounds; 0 is before the first.

    `settings` are those of the run, which must not change. `history` has one entry per round: `round`, `losses`
    (party name -> mean training loss of each of its local epochs), `cases` (party name -> number of training cases)
    and `seconds`.
    """

    round: int
    settings: dict[str, Any]
    history: list[dict[str, Any]]
    weights: dict[str, np.ndarray] = field(repr=False)


def write_state(path: str, state: State) -> None:
    """Write the file, whole or not at all."""
    record = {"round": state.round, "settings": state.settings, "history": state.history}
    metadata = {"federated": json.dumps(record)}
    atomically(path, lambda temporary: save_file(state.weights, temporary, metadata=metadata))


def read_state(path: str) -> State:
    """Raises StitchError if the file is missing or not one of `write_state`."""
    if not os.path.isfile(path):
        raise StitchError(f"{path} does not exist, so there is no federated training to go on with; start again")
    try:
        with safe_open(path, framework="np") as f:
            record = json.loads((f.metadata() or {})["federated"])
            weights = {name: f.get_tensor(name) for name in f.keys()}
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise StitchError(f"{path} is not a federated training's state ({type(error).__name__}); delete its folder "
                          f"and start again") from error
    return State(weights=weights, **record)
