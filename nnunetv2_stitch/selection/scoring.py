"""Dice of a trained supernet under any setting, on labelled cases of the preprocessed grid."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.parties.preprocessed import validation_names
from nnunetv2_stitch.selection.dice import dice_of_network
from nnunetv2_stitch.selection.party_cases import Case
from nnunetv2_stitch.selection.sweep import PositionSweep, sweep_heads
from nnunetv2_stitch.stitching.setting import Setting
from nnunetv2_stitch.stitching.supernet import load_supernet


class SettingScorer(PositionSweep):
    """Mean foreground Dice of a supernet under one setting at a time, with nnU-Net's sliding window."""

    def __init__(self, network, plans_manager, configuration_manager, dataset_json: dict, device: torch.device):
        super().__init__(network, plans_manager, configuration_manager, dataset_json, device)
        self.tiler = self.banded.tiler
        self.tiler.network = network
        self.data_identifier = configuration_manager.data_identifier

    @classmethod
    def of_fold(cls, plans: dict, configuration: str, dataset_json: dict, fold: int | str, model_folder: str,
                results: str, device: torch.device) -> SettingScorer:
        """For the trained supernet of one fold.

        Raises:
            StitchError: parents or stitches missing or changed.
        """
        manager = PlansManager(plans)
        network = load_supernet(plans, configuration, dataset_json, fold, model_folder, results)
        return cls(network, manager, manager.get_configuration(configuration), dataset_json, device)

    def validation_cases(self, preprocessed_folder: str, fold: int | str) -> Sequence[Case]:
        """See `validation_cases`."""
        return validation_cases(preprocessed_folder, self.data_identifier, fold)

    @torch.inference_mode()
    def score(self, setting: Setting, cases: Sequence[Case]) -> float:
        """Mean over cases per label, then over labels, as nnU-Net's foreground mean.

        Raises:
            NothingToScore: no case holds any foreground label.
        """
        self.network.apply_setting(setting)
        return dice_of_network(self.tiler, self.label_manager, cases, getattr(cases, "title", "the cases"))

    def count_shares(self, shares: Sequence[float], cases: Sequence[Case]) -> list[list[np.ndarray]]:
        """Counts `(labels, 3)` by share and case, as `dice.counts_by_label`, by one pass of the parents' untouched
        networks."""
        heads = {str(share): self.network.heads.with_share(share) for share in shares}

        def answers(x: torch.Tensor, rows: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
            (_, *logits), = sweep_heads(self.runner, x, [])
            return ((row, heads[row].ensemble(*logits)) for row in rows)

        counts: dict[str, list[np.ndarray]] = {row: [] for row in heads}
        for data, labels in cases:
            for row, found in self.banded.count(data, labels, list(heads), answers).items():
                counts[row].append(found)
        return list(counts.values())


def validation_cases(preprocessed_folder: str, data_identifier: str, fold: int | str) -> PreprocessedCases:
    """The preprocessed validation cases of a fold, in order of their names, read one at a time.

    Raises:
        StitchError: the dataset has no preprocessed cases.
    """
    folder = os.path.join(preprocessed_folder, data_identifier)
    names = validation_names(preprocessed_folder, data_identifier, fold)
    return PreprocessedCases(infer_dataset_class(folder)(folder, names), names, f"the validation cases of fold {fold}")


class PreprocessedCases(Sequence):
    """Cases of a preprocessed dataset, each read when it is asked for and not kept. `title` is for messages."""

    def __init__(self, dataset, names: Sequence[str], title: str):
        self.dataset, self.names, self.title = dataset, list(names), title

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return PreprocessedCases(self.dataset, self.names[index], self.title)
        data, segmentation = self.dataset.load_case(self.names[index])[:2]
        return data[:], segmentation[:]
