"""What a party's answer holds. It comes from somebody else's machine, so nothing in it is taken for granted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
from flwr.app import Message

from nnunetv2_stitch.federation.buffer import PartyModel
from nnunetv2_stitch.federation.sharing import unlike
from nnunetv2_stitch.parties.untrusted_json import printable
from nnunetv2_stitch.training.member import MAX_CASES

ARRAYS, METRICS, CONFIG, CASES = "arrays", "metrics", "config", "num-examples"
NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
SHOWN = 200  # characters of somebody else's error


def read_model(reply: Message, asked_in: int, like: Mapping[str, np.ndarray]) -> PartyModel:
    """The model in a reply.

    Args:
        like: the global model, whose names and shapes it must have.

    Raises:
        ValueError: an error instead of a model, or something that cannot be merged; the reason.
    """
    if reply.has_error():
        raise ValueError(printable(" ".join(str(reply.error.reason).split()), SHOWN) or "it failed")
    try:
        arrays = {name: array.numpy() for name, array in reply.content[ARRAYS].items()}
        cases = reply.content[METRICS][CASES]
        config = reply.content[CONFIG]
        name = str(config["name"])
        losses = tuple(float(v) for v in config.get("losses", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"its answer is not one of a model ({type(error).__name__})") from error
    if not NAME.fullmatch(name):
        raise ValueError("its name is not made of letters, digits, _ and -")
    wrong = unlike(like, arrays)
    if wrong is not None:
        raise ValueError(f"its tensor {printable(wrong, 80)} is not that of the global model")
    if not isinstance(cases, int) or not 0 < cases <= MAX_CASES:
        raise ValueError(f"it says that it has {printable(cases, 20)} cases")
    if not all(a.dtype.kind == "f" and np.isfinite(a).all() for a in arrays.values()):
        raise ValueError("its weights are not all finite numbers")
    return PartyModel(name, asked_in, cases, {n: a.astype(like[n].dtype) for n, a in arrays.items()},
                      tuple(v for v in losses if math.isfinite(v)))
