"""What a stitch trainer does beyond nnU-Net's trainer, kept out of the trainer classes so that they import fast."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_stitch.devices import set_budget
from nnunetv2_stitch.distributed import local_device
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically, read_json, write_json
from nnunetv2_stitch.fitting.closed_form import DirectMatching, all_average
from nnunetv2_stitch.fitting.cutting import AUTO, cuts_of_step
from nnunetv2_stitch.fitting.double_batched import double_batched_loss, groups
from nnunetv2_stitch.locks import plans_locked
from nnunetv2_stitch.nnunet_internals import mixed_precision, on_device, optimise, set_up_for_group
from nnunetv2_stitch.parties.checkpoint_writing import load_training
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble
from nnunetv2_stitch.stitching.plans import Stitching, layout_of, load_parents
from nnunetv2_stitch.stitching.setting import Setting, decode_setting
from nnunetv2_stitch.stitching.supernet import STITCHES_FILE

DIRECT_FILE = "direct_matching.json"
SAVERS = ("checkpoint_segments", "positions_per_pass", "half_targets")  # of memory


class StitchSession:
    """State and steps of one stitch training; `trainer` is the nnU-Net trainer that it serves."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.configuration = trainer.configuration_manager.configuration
        found = Stitching.find(self.configuration)
        if found is None:
            raise StitchError(f"plans {trainer.plans_manager.plans_name} describe no stitched ensemble for "
                              f"{trainer.configuration_name}; run nnUNetv2_train_stitch DATASET_A DATASET_B first")
        training = found.training
        set_budget(trainer, training.num_epochs, training.num_iterations_per_epoch)
        for name in SAVERS:
            setattr(trainer, name, getattr(training, name) or getattr(trainer, name))
        self.rng_seed = int(training.seed)
        self.fixed_setting = Setting.from_json(training.setting) if training.setting else None
        # What validation and prediction use once the position is known.
        planned = self.configuration["architecture"]["arch_kwargs"]["setting"]
        self.setting = self.fixed_setting or Setting.from_json(planned)
        self.matching: DirectMatching | None = None
        self.mirroring_axes: tuple[int, ...] | None = None
        self.deploys = True  # False: whoever started the training deploys
        self.compared: set[int] | None = None  # positions of this step, None for all
        self.steps = 0
        self.cuts: dict[tuple[int, ...], list[int]] = {}

    # -- set-up ---------------------------------------------------------------------------------------------------

    def place(self, device: torch.device) -> None:
        """nnU-Net takes every process group for one of GPUs, all of them on one machine."""
        self.trainer.device = local_device(device)
        if device.type != "cuda":
            self.trainer.grad_scaler = None

    def distribute(self) -> None:
        """What nnU-Net does to a trainer in a process group, on any device. Norms need no synchronising, because the
        parents are frozen."""
        trainer = self.trainer
        set_up_for_group(trainer)
        devices = [trainer.device] if trainer.device.type == "cuda" else None
        trainer.network = DistributedDataParallel(trainer.network, devices)

    def keep_aside(self) -> None:
        """nnU-Net writes plans and dataset.json in place and from every process, while other commands may read them."""
        self._aside = tempfile.TemporaryDirectory()
        self._folder, self.trainer.output_folder_base = self.trainer.output_folder_base, self._aside.name

    def put_in_place(self) -> None:
        """Move what nnU-Net has written meanwhile. Of the plans the present state is taken: trainings of other folds
        may have added theirs."""
        trainer = self.trainer
        trainer.output_folder_base = self._folder
        plans = os.path.join(trainer.preprocessed_dataset_folder_base, f"{trainer.plans_manager.plans_name}.json")
        for name in sorted(os.listdir(self._aside.name)) if trainer.local_rank == 0 else ():
            source = plans if name == "plans.json" else os.path.join(self._aside.name, name)
            with plans_locked(plans):
                atomically(os.path.join(self._folder, name), lambda path, source=source: shutil.copyfile(source, path))
        self._aside.cleanup()

    def seed(self) -> None:
        """See `seed_everything`."""
        seed_everything(self.rng_seed + self.trainer.current_epoch + 1000 * self.trainer.local_rank)
        self.trainer.print_to_log_file(f"nnunetv2-stitch: seed {self.rng_seed}")

    def load_parents(self) -> None:
        self.mirroring_axes = load_parents(self.trainer.stitched, self.configuration, self.trainer.fold,
                                           str(nnUNet_results))

    def plot_matches(self) -> None:
        """The networks with their matches, in place of nnU-Net's drawing of one network; left to whoever deploys, who
        marks the chosen one."""
        from nnunetv2_stitch.figures import matches_by_partner
        if self.trainer.local_rank == 0 and self.deploys:
            matches_by_partner(layout_of(self.trainer.stitched), self.trainer.output_folder_base)

    # -- steps ----------------------------------------------------------------------------------------------------

    def set_switches(self) -> None:
        """For one training step: every stitch active, as in deployment but everywhere; of one group of positions only,
        where groups take turns."""
        network = self.trainer.stitched
        turns = groups(network.positions, self.trainer.positions_per_pass)
        turn = turns[self.steps % len(turns)]
        self.steps += 1
        self.compared = set(turn) if len(turns) > 1 else None
        switches = {p: states for p, states in all_average(network).switches.items() if p in turn}
        network.apply_setting(Setting(switches, self.setting.output, self.setting.combine))

    def all_switches(self) -> None:
        self.compared = None
        network = self.trainer.stitched
        network.apply_setting(Setting(all_average(network).switches, self.setting.output, self.setting.combine))

    def objective(self, network: StitchedEnsemble, x: torch.Tensor) -> torch.Tensor:
        """Double-batched loss of a batch `(B, C, *spatial)` at the positions whose turn it is."""
        trainer = self.trainer
        keep = torch.bfloat16 if trainer.half_targets else None
        cuts = self.cuts_for(network, x) if trainer.checkpoint_segments == AUTO else trainer.checkpoint_segments
        loss = double_batched_loss(network, x, cuts, compared=self.compared, keep=keep)
        if trainer.is_ddp:  # which wants a gradient, be it zero, for every parameter
            loss = loss + 0.0 * sum(p.sum() for p in self.resting())
        return loss

    def cuts_for(self, network: StitchedEnsemble, x: torch.Tensor) -> list[int]:
        if not torch.is_grad_enabled():
            return []
        shape = tuple(x.shape)
        if shape not in self.cuts:
            self.cuts[shape] = cuts_of_step(network, x, self.compared)
            self.trainer.print_to_log_file(f"nnunetv2-stitch: {len(self.cuts[shape])} of "
                                           f"{len(self.cuts[shape]) + 1} pieces are recomputed in the backward pass")
        return self.cuts[shape]

    def resting(self) -> list[torch.nn.Parameter]:
        """The stitches whose turn it is not."""
        if self.compared is None:
            return []
        return [p for name, p in self.trainer.stitched.named_parameters()
                if name.startswith("switches.") and int(name.split(".")[1]) not in self.compared]

    def optimise(self, loss: torch.Tensor) -> None:
        def trained() -> list[torch.nn.Parameter]:
            for p in self.resting():  # AdamW would move them on by their momentum
                p.grad = None
            return [p for p in self.trainer.stitched.stitch_parameters() if p.grad is not None]

        optimise(self.trainer, loss, trained)

    # -- direct matching ------------------------------------------------------------------------------------------

    def start_direct_matching(self) -> None:
        self.matching = DirectMatching(self.trainer.stitched)

    def direct_step(self, batch: dict) -> np.ndarray:
        device = self.trainer.device
        with torch.no_grad(), mixed_precision(device):
            self.matching.update(on_device(batch["data"], device))
        return np.zeros(())

    def finish_direct_matching(self) -> np.ndarray:
        """Solve, over all processes' moments; returns the mean unexplained variance."""
        self.matching.reduce()
        scores = self.matching.solve()
        self.matching = None
        if self.trainer.local_rank == 0:
            write_json(os.path.join(self.trainer.output_folder, DIRECT_FILE), {str(k): v for k, v in scores.items()})
        return np.array(1 - np.mean(list(scores.values())))

    def direct_matching(self) -> None:
        """One pass of direct matching before the first epoch, as the starting point of training."""
        self.start_direct_matching()
        for _ in range(self.trainer.num_iterations_per_epoch):
            self.direct_step(next(self.trainer.dataloader_train))
        unexplained = self.finish_direct_matching()
        self.trainer.print_to_log_file(f"direct matching leaves {float(unexplained):.3f} of the features' variance")

    def r2(self) -> dict[int, tuple[float, float]] | None:
        path = os.path.join(self.trainer.output_folder, DIRECT_FILE)
        return {int(k): tuple(v) for k, v in read_json(path).items()} if os.path.isfile(path) else None

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str, stock_save: Callable[[str], None]) -> None:
        if self.trainer.local_rank != 0 or self.trainer.disable_checkpointing:
            stock_save(filename)
        else:
            atomically(filename, stock_save)

    def load_checkpoint(self, path: str, stock_load: Callable[[str], None]) -> None:
        """A training checkpoint as nnU-Net does; a deployed one together with all stitches beside it."""
        from safetensors.torch import load_file
        finished = load_training(self.trainer, path, stock_load)
        if finished is None:
            return
        network, weights = self.trainer.stitched, finished["network_weights"]
        self.setting = decode_setting(weights[SETTING_KEY])
        state = network.state_dict()
        stitches = os.path.join(os.path.dirname(path), STITCHES_FILE)
        if os.path.isfile(stitches):
            state.update(load_file(stitches))
        state.update({k: v for k, v in weights.items() if k in state})
        network.load_state_dict(state)
