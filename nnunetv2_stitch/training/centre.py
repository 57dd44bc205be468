"""The centre's own data, as nnU-Net's trainer serves them: training batches, validation cases, and the loss."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from nnunetv2_stitch.devices import set_up_cudnn
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.folders import as_fold
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.selection.party_cases import Case
from nnunetv2_stitch.selection.scoring import validation_cases
from nnunetv2_stitch.training.site import Site


class Centre:
    """nnU-Net's trainer on the centre's data, used for its network, loss, batches and split; it trains nothing."""

    def __init__(self, site: Site, trainer, device: torch.device):
        self.site, self.trainer, self.device = site, trainer, device
        self.network: nn.Module = trainer.network

    def batch(self) -> dict:
        """The next augmented training batch."""
        return next(self.trainer.dataloader_train)

    def validation_batch(self) -> dict:
        """A batch of the validation cases, not augmented."""
        return next(self.trainer.dataloader_val)

    def validation_cases(self) -> Sequence[Case]:
        """Preprocessed validation cases of the fold, in order of their names."""
        return validation_cases(self.site.folder, self.site.data_identifier, self.site.fold)

    def deep_supervision(self, on: bool) -> None:
        self.trainer.set_deep_supervision_enabled(on)


@contextlib.contextmanager
def opened(site: Site, device: torch.device) -> Iterator[Centre]:
    """The centre's trainer and loaders. Augmentation runs in this process, so that seeds decide what is drawn.
    Where the dataset has no splits_final.json yet, nnU-Net makes it, as in any training.

    Raises:
        StitchError: a network class that may not be built, or data that nnU-Net cannot serve.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    architecture = site.plans["configurations"][site.configuration]["architecture"]
    require_allowed_classes(architecture)  # its trainer would call whatever the plans name
    set_up_cudnn()
    # A trainer makes its folder and log as soon as it is made, so not in the user's results.
    with tempfile.TemporaryDirectory() as folder, environment_set({
            "nnUNet_results": folder, "nnUNet_n_proc_DA": "0", "nnUNet_compile": "false",
            "nnUNet_wandb_enabled": "0"}):
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = nnUNetTrainer({**copy.deepcopy(site.plans), "continue_training": False}, site.configuration,
                                    as_fold(site.fold), site.dataset_json, device)
            try:
                trainer.initialize()
                trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
            except (ValueError, KeyError, FileNotFoundError, AssertionError, IndexError) as error:
                raise StitchError(f"nnU-Net cannot serve batches of fold {site.fold} of {site.folder} ({error}); "
                                  f"check splits_final.json and the preprocessed data") from error
            trainer.print_to_log_file = lambda *args, **kwargs: None
        yield Centre(site, trainer, device)
