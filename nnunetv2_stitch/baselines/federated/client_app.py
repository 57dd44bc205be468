"""A party's client: passes weights between Flower and the party's trainer.

Flower starts a process of its own for every message, which imports this file; torch and nnU-Net stay out of it.
"""

from __future__ import annotations

import os

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from nnunetv2_stitch.baselines.federated import wire
from nnunetv2_stitch.baselines.federated.job import PARTY_VARIABLE, Job

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Have the party's trainer do the local epochs of one round, starting from the common weights."""
    job, index = Job.of_this_process(), int(os.environ[PARTY_VARIABLE])
    weights = {name: array.numpy() for name, array in message.content["arrays"].items()}
    question = {"do": "train", "round": message.content["config"]["round"]}
    name = job.parties[index].name
    try:
        answer, weights = wire.ask(job.trainers[index], job.key, question, weights)
    except (EOFError, OSError) as error:
        raise RuntimeError(f"the trainer of {name} has ended ({type(error).__name__})") from error
    content = RecordDict({
        "arrays": ArrayRecord({name: Array(array) for name, array in weights.items()}),
        "metrics": MetricRecord({"num-examples": answer["cases"]}),
        "config": ConfigRecord({"party": index, "name": name, "losses": answer["losses"]}),
    })
    return Message(content, reply_to=message)
