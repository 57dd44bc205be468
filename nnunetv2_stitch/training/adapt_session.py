"""A training that begins with a partner's network in the host's terms."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2_stitch.fileio import atomically
from nnunetv2_stitch.gating.features import first_convolutions
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE
from nnunetv2_stitch.graph.tracing import trace
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights
from nnunetv2_stitch.parties.checkpoint_writing import untrained, write_checkpoint
from nnunetv2_stitch.training.adapt_terms import in_terms, input_tensors
from nnunetv2_stitch.training.records import ADAPTATION, START_FLAGS, StartRecord
from nnunetv2_stitch.training.session import StartSession

RECORD_FILE = "adaptation.json"
START = "checkpoint_start.pth"  # the partner in the host's terms, as it was before


@dataclass(frozen=True, kw_only=True)
class Adaptation(StartRecord):
    """A training that begins with a partner's model. `channels`: for each input channel of the host the partner's, None
    for one that it does not know. `outputs`: for each output of the host the partner's that mean it."""

    channels: Sequence[int | None]
    outputs: Sequence[Sequence[int]]

    key, command, trainer = ADAPTATION, "nnUNetv2_adapt_party", "nnUNetTrainerAdapted"
    file, kind, source, whose = RECORD_FILE, "an adapted partner", "partner", "the partner's"
    changed = "another checkpoint of the partner (sha256 differs)"
    flags = {"model": "-m_b", **START_FLAGS, "channels": "-channel_map", "outputs": "-label_map"}


class AdaptSession(StartSession):
    """The session of an `Adaptation`."""

    def begin(self) -> None:
        super().begin()
        if os.path.isfile(os.path.join(self.trainer.output_folder, SIGNATURE_FILE)):
            self.keep_first_convolution()

    def start_from(self, path: str) -> None:
        """Take the partner's weights, and keep them as an ordinary checkpoint beside those to come. The network is new
        and seeded, so outputs that the partner lacks are the same for a seed."""
        trainer, record = self.trainer, self.record
        inputs = input_tensors(trainer.configuration_manager.configuration["architecture"], len(record.channels),
                               len(record.outputs))
        state = in_terms(network_weights(load_parent(path)), self.network.state_dict(), inputs, record.channels,
                         record.outputs)
        load_weights(self.network, state, path)
        write_checkpoint(os.path.join(trainer.output_folder, START),
                         untrained(state, trainer.configuration_name, trainer.fold, self.mirroring_axes or None))
        self.take_signature(os.path.join(os.path.dirname(path), SIGNATURE_FILE))

    def take_signature(self, path: str) -> None:
        """The partner's images keep their signature, if it came with one: it can be read where the network sees all
        channels of the host through the partner's first convolution."""
        if os.path.isfile(path) and None not in self.record.channels:
            target = os.path.join(self.trainer.output_folder, SIGNATURE_FILE)
            atomically(target, lambda temporary: shutil.copyfile(path, temporary))

    def keep_first_convolution(self) -> None:
        """What a signature was measured behind stays as it was; all else is trained."""
        module = trace(copy.deepcopy(self.network))  # tracing changes how a network trains
        for node in first_convolutions(module, len(self.record.channels)):
            self.network.get_submodule(node.target).requires_grad_(False)
        self.trainer.print_to_log_file("nnunetv2-stitch: the first convolution is kept, so that the partner's "
                                       "signature holds")
