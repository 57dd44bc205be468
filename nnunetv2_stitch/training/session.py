"""What the adapting trainer does beyond nnU-Net's, kept out of the trainer class so that it imports fast."""

from __future__ import annotations

import copy
import os
import shutil

from nnunetv2_stitch.fileio import atomically
from nnunetv2_stitch.gating.features import first_convolutions
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE
from nnunetv2_stitch.graph.tracing import trace
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights
from nnunetv2_stitch.parties.checkpoint_writing import untrained, write_checkpoint
from nnunetv2_stitch.plain_training.session import PlainSession, require_digest
from nnunetv2_stitch.training.record import Adaptation
from nnunetv2_stitch.training.start import in_terms, input_tensors

RECORD_FILE = "adaptation.json"
START = "checkpoint_start.pth"  # the partner in the host's terms, as it was before


class AdaptSession(PlainSession):
    """A training that begins with all weights of a partner's model, in the host's terms."""

    what = "an adapted partner"

    def __init__(self, trainer):
        super().__init__(trainer, Adaptation.of(trainer.configuration_manager.configuration,
                                                trainer.plans_manager.plans_name))
        trainer.initial_lr = self.record.learning_rate

    def begin(self) -> None:
        """Raises StitchError if the partner's model is missing, broken, or not the one that the plans name."""
        record, trainer = self.record, self.trainer
        entry = record.of_fold(trainer.fold)
        self.mirroring_axes = tuple(entry["mirroring"])  # what it has never seen mirrored may not be symmetric
        if trainer.current_epoch == 0:
            path = record.checkpoint(trainer.fold)
            require_digest(path, entry["sha256"], "run nnUNetv2_adapt_party again, with -o_p NAME")
            self.start_in_terms(path)
            self.take_signature(os.path.join(os.path.dirname(path), SIGNATURE_FILE))
        if os.path.isfile(os.path.join(trainer.output_folder, SIGNATURE_FILE)):
            self.keep_first_convolution()
        self.seed()
        trainer.print_to_log_file(f"nnunetv2-stitch: begun with checkpoint {entry['sha256']}, seed {record.seed}, "
                                  f"learning rate {record.learning_rate:g}")

    def start_in_terms(self, path: str) -> None:
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

    def write_down(self) -> None:
        told = {k: v for k, v in self.record.to_json().items() if k != "folds"}
        self.write_record(RECORD_FILE, {**told, "model": os.path.basename(self.record.model),
                                        **self.record.of_fold(self.trainer.fold)})
