"""Test cases of a raw dataset that have labels, as a host's network reads them."""

from __future__ import annotations

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.selection.party_cases import Case, preprocess, test_files
from nnunetv2_stitch.selection.party_terms import PartyTerms


def labelled_test_cases(raw_folder: str, plans_manager: PlansManager, configuration: str,
                        dataset_json: dict) -> list[Case]:
    """Test cases (`imagesTs`, `labelsTs`) of a raw dataset, preprocessed by a host's plans, with their labels on the
    same grid."""
    configuration_manager = plans_manager.get_configuration(configuration)
    channels = len(configuration_manager.normalization_schemes)
    terms = PartyTerms(tuple(range(channels)), None, (), dataset_json, channels)
    return [preprocess(case, terms, plans_manager, configuration_manager)
            for case in test_files(raw_folder, dataset_json["file_ending"])]
