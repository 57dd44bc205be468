"""The centre's own data, as nnU-Net's trainer serves them: training batches, validation cases, and the loss."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from nnunetv2.paths import nnUNet_preprocessed
from torch import nn

from nnunetv2_stitch.bridging.report import TOLERANCE
from nnunetv2_stitch.bridging.terms import normalisations, output_names
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.merging.members import Member
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.parties.datasets import find_dataset
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.selection.party_cases import Case


@dataclass(frozen=True)
class Site:
    """The centre's preprocessed dataset, and the plans and dataset.json that the merged model will have: the centre's,
    with the members' network, patch size and, where they differ, labels. `same_labels`: whether the centre's labels are
    what the members answer with."""

    folder: str
    dataset_name: str
    configuration: str
    fold: int | str
    plans: dict = field(repr=False)
    dataset_json: dict = field(repr=False)
    same_labels: bool = True


def find_site(dataset: int | str, configuration: str, fold: int | str, members: Sequence[Member], name: str,
              plans_name: str | None = None) -> Site:
    """Find the centre's data and check that the members can be used on them; writes nothing.

    Args:
        name: what the merged model's plans will be called.
        plans_name: plans that the centre's data were preprocessed with; None for the members'.

    Raises:
        StitchError: no such dataset, plans, configuration or fold, or another preprocessing than the members'.
    """
    folder = find_dataset(nnUNet_preprocessed, "nnUNet_preprocessed", dataset)
    model = members[0].model
    plans_name = plans_name or model.plans_name
    path = os.path.join(folder, f"{plans_name}.json")
    if not os.path.isfile(path):
        raise StitchError(f"{path} does not exist: the centre's data must be preprocessed with the models' plans; see "
                          f"nnUNetv2_move_plans_between_datasets and nnUNetv2_preprocess, or name other plans with -p")
    plans, dataset_json = read_json(path), read_json(os.path.join(folder, "dataset.json"))
    if configuration not in plans.get("configurations", {}):
        raise StitchError(f"{path} has no configuration {configuration}; it has "
                          f"{', '.join(plans.get('configurations', {})) or 'none'}")
    dataset_name = os.path.basename(folder)
    own = ModelFolder(folder, dataset_name, "nnUNetTrainer", plans_name, configuration, plans, dataset_json, ())
    data = os.path.join(folder, own.configuration_manager.data_identifier)
    if not os.path.isdir(data):
        raise StitchError(f"{data} does not exist; run nnUNetv2_preprocess -d {dataset_name} -plans_name {plans_name} "
                          f"-c {configuration}")
    splits = os.path.join(folder, "splits_final.json")
    if fold != "all" and os.path.isfile(splits) and not 0 <= int(fold) < len(read_json(splits)):
        raise StitchError(f"{splits} has folds 0 to {len(read_json(splits)) - 1}, not {fold}")
    for member in members:
        _require_same_terms(own, member, path)
    same = output_names(own) == output_names(model) and \
        own.label_manager.has_regions == model.label_manager.has_regions
    return Site(folder, dataset_name, configuration, fold, _merged_plans(own, model, name),
                dataset_json if same else _with_labels_of(model, dataset_json), same)


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

    def validation_cases(self) -> Iterator[Case]:
        """Preprocessed validation cases of the fold, in order of their names."""
        names = sorted(self.trainer.do_split()[1])
        dataset = self.trainer.dataset_class(self.trainer.preprocessed_dataset_folder, names)
        for name in names:
            data, segmentation = dataset.load_case(name)[:2]
            yield np.asarray(data[:]), np.asarray(segmentation[:])

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
    # A trainer makes its folder and log as soon as it is made, so not in the user's results.
    with tempfile.TemporaryDirectory() as folder, environment_set({
            "nnUNet_results": folder, "nnUNet_n_proc_DA": "0", "nnUNet_compile": "false",
            "nnUNet_wandb_enabled": "0"}):
        with contextlib.redirect_stdout(io.StringIO()):
            fold = site.fold if site.fold == "all" else int(site.fold)
            trainer = nnUNetTrainer({**copy.deepcopy(site.plans), "continue_training": False}, site.configuration,
                                    fold, site.dataset_json, device)
            try:
                trainer.initialize()
                trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
            except (ValueError, KeyError, FileNotFoundError, AssertionError, IndexError) as error:
                raise StitchError(f"nnU-Net cannot serve batches of fold {site.fold} of {site.folder} ({error}); "
                                  f"check splits_final.json and the preprocessed data") from error
            trainer.print_to_log_file = lambda *args, **kwargs: None
        yield Centre(site, trainer, device)


def _require_same_terms(own: ModelFolder, member: Member, path: str) -> None:
    """One network takes one kind of input: what the centre's data were preprocessed to must be what it was trained
    on."""
    model, ours = member.model, own.configuration_manager
    theirs = model.configuration_manager
    spacings = [list(map(float, c.spacing)) for c in (ours, theirs)]
    close = len(spacings[0]) == len(spacings[1]) and all(abs(a - b) <= TOLERANCE * a for a, b in zip(*spacings))
    values = {"spacing": (spacings[0], spacings[0] if close else spacings[1]),
              "transpose_forward": [list(p.plans_manager.transpose_forward) for p in (own, model)],
              "normalisation": ["; ".join(map(str, normalisations(p))) for p in (own, model)],
              "channels": [p.channel_names for p in (own, model)]}
    for key, (a, b) in values.items():
        if a != b:
            raise StitchError(f"{path}: {key} is {a}, that of {member.label} {b}, so one network cannot serve both; "
                              f"preprocess the centre's data with the models' plans "
                              f"(nnUNetv2_move_plans_between_datasets, nnUNetv2_preprocess)")


def _merged_plans(own: ModelFolder, model: ModelFolder, name: str) -> dict:
    """The centre's plans with this one configuration, and the members' network and patch size in it."""
    plans = {**copy.deepcopy(own.plans), "dataset_name": own.dataset_name, "plans_name": name}
    configuration = copy.deepcopy(own.configuration_manager.configuration)
    spec = model.network_spec
    configuration["architecture"] = copy.deepcopy(spec)
    patch = list(model.configuration_manager.patch_size)
    if not all(isinstance(p, int) and 0 < p <= 2**14 for p in patch):
        raise StitchError(f"{model.path}/plans.json: patch_size {str(patch)[:60]} is not one of nnU-Net's; copy the "
                          f"model again from its source")
    configuration["patch_size"] = patch
    plans["configurations"] = {own.configuration: configuration}
    return plans


def _with_labels_of(model: ModelFolder, dataset_json: dict) -> dict:
    kept = {k: v for k, v in dataset_json.items() if k not in ("labels", "regions_class_order")}
    return {**kept, **{k: copy.deepcopy(model.dataset_json[k]) for k in ("labels", "regions_class_order")
                       if k in model.dataset_json}}
