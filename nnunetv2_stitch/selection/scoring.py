"""Dice of a trained supernet under any setting, on labelled cases of the preprocessed grid."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.selection.deploy import load_supernet
from nnunetv2_stitch.selection.party_cases import Case, preprocess, test_files
from nnunetv2_stitch.selection.party_terms import PartyTerms
from nnunetv2_stitch.selection.sweep import PositionSweep
from nnunetv2_stitch.stitching.setting import Setting


class SettingScorer(PositionSweep):
    """Mean foreground Dice of a supernet under one setting at a time, with nnU-Net's sliding window."""

    def __init__(self, network, plans_manager, configuration_manager, dataset_json: dict, device: torch.device):
        super().__init__(network, plans_manager, configuration_manager, dataset_json, device)
        self.tiler.network, self.tiler.label_manager = network, self.label_manager
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

    def validation_cases(self, preprocessed_folder: str, fold: int | str) -> list[Case]:
        """The preprocessed validation cases of a fold, in order of their names.

        Raises:
            StitchError: the dataset has no such fold.
        """
        folder = os.path.join(preprocessed_folder, self.data_identifier)
        dataset_class = infer_dataset_class(folder)
        if fold == "all":
            names = sorted(n for n in dataset_class.get_identifiers(folder) if not n.startswith("."))
        else:
            path = os.path.join(preprocessed_folder, "splits_final.json")
            splits = read_json(path)
            if not 0 <= int(fold) < len(splits):
                raise StitchError(f"{path} has folds 0 to {len(splits) - 1}, not {fold}")
            names = sorted(splits[int(fold)]["val"])
        dataset = dataset_class(folder, names)
        loaded = [dataset.load_case(name)[:2] for name in names]
        return [(data[:], segmentation[:]) for data, segmentation in loaded]

    @torch.inference_mode()
    def score(self, setting: Setting, cases: Sequence[Case]) -> float:
        """Mean over cases per label, then over labels, as nnU-Net's foreground mean."""
        self.network.apply_setting(setting)
        per_case = []
        for data, labels in cases:
            logits = self.tiler.predict_sliding_window_return_logits(torch.from_numpy(np.asarray(data)).float())
            predicted = self.label_manager.convert_logits_to_segmentation(logits.float().cpu())
            per_case.append(self._dice(np.asarray(predicted), labels[0]))
        return float(np.nanmean(np.nanmean(per_case, 0)))


def labelled_test_cases(raw_folder: str, plans_manager: PlansManager, configuration: str,
                        dataset_json: dict) -> list[Case]:
    """Test cases (`imagesTs`, `labelsTs`) of a raw dataset, preprocessed by a host's plans, with their labels on the
    same grid."""
    configuration_manager = plans_manager.get_configuration(configuration)
    channels = len(configuration_manager.normalization_schemes)
    terms = PartyTerms(tuple(range(channels)), None, (), dataset_json, channels)
    return [preprocess(case, terms, plans_manager, configuration_manager)
            for case in test_files(raw_folder, dataset_json["file_ending"])]
