"""A party's ClientApp: the local epochs of one round.

Flower starts a process of its own for every message, so the party's trainer is built anew and goes on with the state
that it left on this machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from nnunetv2_stitch.devices import set_up_device
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.federation.data import FederatedParty, party_files, plans_to_train
from nnunetv2_stitch.federation.local import LocalTrainer, newest_state
from nnunetv2_stitch.federation.replies import ARRAYS, CASES, CONFIG, METRICS, NAME
from nnunetv2_stitch.federation.settings import RoundsSettings, rounds_folder

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """The local epochs of one round, starting from the global model.

    Raises:
        StitchError: bad settings or data, or the training diverged. The centre is told in a line.
    """
    settings, party = RoundsSettings.read(context.run_config), party_of(context.node_config)
    device = str(context.node_config.get("device", "cuda"))
    config = message.content[CONFIG]
    number, training = int(config["round"]), str(config["training"])
    if not re.fullmatch(r"[0-9a-f]{16}", training):  # it names a folder, and comes from another machine
        raise StitchError("the centre did not say to which training the round belongs")
    folder = os.path.join(rounds_folder(party, settings.configuration), f"fold_{settings.fold}", "federated",
                          "parties", party.name, training)
    set_up_device(device)
    seed = (settings.seed + zlib.crc32(party.name.encode())) % 2**32  # each party draws patches of its own
    trainer = LocalTrainer(party.name, plans_to_train(party, settings.configuration), party_files(party)[1],
                           settings.schedule, folder, torch.device(device), seed)
    with contextlib.closing(trainer):
        trainer.load_state(newest_state(folder, number - 1))
        trainer.miss_rounds(number)
        losses = trainer.train(number, {name: array.numpy() for name, array in message.content[ARRAYS].items()})
        weights = trainer.weights()
    return Message(RecordDict({
        ARRAYS: ArrayRecord({name: Array(array) for name, array in weights.items()}),
        METRICS: MetricRecord({CASES: trainer.cases}),
        CONFIG: ConfigRecord({"name": party.name, "losses": losses})}), reply_to=message)


def party_of(node_config: Mapping[str, Any]) -> FederatedParty:
    """Who this SuperNode is, from its `--node-config`.

    Raises:
        StitchError: an entry is missing, or the name is none.
    """
    missing = [key for key in ("party", "dataset", "plans") if not node_config.get(key)]
    if missing:
        raise StitchError(f"the SuperNode does not say its {missing[0]}; start it with --node-config "
                          f"'party=\"B\" dataset=\"Dataset501_B\" plans=\"nnUNetPlans\" device=\"cuda\"'")
    party = FederatedParty(*(str(node_config[key]) for key in ("party", "dataset", "plans")))
    if not NAME.fullmatch(party.name):
        raise StitchError(f"party {party.name!r} of the SuperNode: use letters, digits, _ and -")
    return party
