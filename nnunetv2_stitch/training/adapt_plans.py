"""Plans of the host for the partner's network, and the preprocessed data that go with them."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Sequence

from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_raw
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

from nnunetv2_stitch.bridging.model_properties import normalisations
from nnunetv2_stitch.errors import StitchError, last_line
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.folders import files_in, stock_id
from nnunetv2_stitch.parties.model_folder import ADAPTED_KEY, MADE_KEYS, ModelFolder
from nnunetv2_stitch.parties.preprocessed import FINGERPRINT
from nnunetv2_stitch.training.records import without_records
from nnunetv2_stitch.training.site import NO_PLANS

RESAMPLING = tuple(f"resampling_fn_{what}{more}" for what in ("data", "seg") for more in ("", "_kwargs"))


def adapted_plans(partner: ModelFolder, folder: str, dataset_json: dict, channels: Sequence[int | None],
                  name: str) -> dict:
    """The partner's network, patch, batch and preprocessing as plans `name` of the host, of one configuration.

    Args:
        folder: the host's, in nnUNet_preprocessed.
        channels: see `start.channel_sources`. A channel that only the host has is normalised as nnU-Net plans it.

    Raises:
        StitchError: such a channel, and the host's fingerprint does not tell its intensities.
    """
    dataset_name = os.path.basename(folder)
    configuration = copy.deepcopy(partner.configuration_manager.configuration)
    configuration["architecture"] = copy.deepcopy(partner.network_spec)
    names = ModelFolder(folder, dataset_name, "", name, "", {}, dataset_json, ()).channel_names
    schemes, masks = (list(configuration[k]) for k in ("normalization_schemes", "use_mask_for_norm"))
    measured = None in channels and _fingerprint(folder)
    configuration["normalization_schemes"] = [
        get_normalization_scheme(n).__name__ if c is None else schemes[c] for n, c in zip(names, channels)]
    configuration["use_mask_for_norm"] = [c is not None and bool(masks[c]) for c in channels]
    intensities = {str(i): measured[str(i)] if c is None else partner.intensities.get(str(c), {})
                   for i, c in enumerate(channels)}
    configuration["data_identifier"] = f"{name}_{partner.configuration}"
    own = {k: v for k, v in copy.deepcopy(partner.plans).items() if k not in MADE_KEYS}
    plans = {**own, "dataset_name": dataset_name, "plans_name": name,
             "image_reader_writer": _reader(folder, dataset_json),
             "foreground_intensity_properties_per_channel": intensities,
             "configurations": {partner.configuration: configuration}, ADAPTED_KEY: True}
    return without_records(plans)


def _fingerprint(folder: str) -> dict:
    path = os.path.join(folder, FINGERPRINT)
    found = read_json(path).get("foreground_intensity_properties_per_channel")
    if not isinstance(found, dict):
        raise StitchError(f"{path} names no intensities; run nnUNetv2_extract_fingerprint -d "
                          f"{stock_id(os.path.basename(folder))}")
    return found


def _plans_in(folder: str) -> list[tuple[str, dict]]:
    """Names and contents of all readable plans of a preprocessed dataset."""
    found = []
    for name in (n for n in files_in(folder, ".json") if n not in NO_PLANS):
        try:
            plans = read_json(os.path.join(folder, name))
        except StitchError:
            continue  # that file is no business of ours
        if isinstance(plans, dict) and isinstance(plans.get("configurations"), dict):
            found.append((name.removesuffix(".json"), plans))
    return found


def _reader(folder: str, dataset_json: dict) -> str:
    """The host's files are its own, so its plans' reader, or what nnU-Net takes for such files."""
    named = (plans.get("image_reader_writer") for _, plans in _plans_in(folder))
    return next((n for n in named if isinstance(n, str)), None) or \
        determine_reader_writer_from_dataset_json(dataset_json, verbose=False).__name__


def data_terms(own: ModelFolder) -> tuple:
    """What decides the values of preprocessed data; equal terms, equal data."""
    configuration = own.configuration_manager
    return ([float(s) for s in configuration.spacing], list(own.plans_manager.transpose_forward),
            normalisations(own), configuration.preprocessor_name,
            [configuration.configuration.get(k) for k in RESAMPLING], own.plans["image_reader_writer"])


def same_data(own: ModelFolder) -> str | None:
    """The data_identifier of preprocessed data of the host that are there and exactly what `own` plans would give."""
    wanted = data_terms(own)
    for name, plans in _plans_in(own.path):
        for configuration in plans["configurations"]:
            other = ModelFolder(own.path, own.dataset_name, own.trainer, name, configuration, plans, own.dataset_json,
                                ())
            try:
                identifier = other.configuration_manager.data_identifier
                if data_terms(other) == wanted and os.path.isdir(os.path.join(own.path, identifier)):
                    return identifier
            except Exception:  # nnU-Net checks nothing, and plans that are broken are not the ones we want
                continue
    return None


def require_raw(dataset: str) -> None:
    """Raises StitchError if the host's images are not there to be preprocessed."""
    if not nnUNet_raw.is_set() or not os.path.isdir(os.path.join(str(nnUNet_raw), dataset)):
        raise StitchError(f"{dataset} must be preprocessed as the partner's plans say, and its images are not in "
                          f"nnUNet_raw {nnUNet_raw if nnUNet_raw.is_set() else '(not set)'}; put them there")


def preprocess(folder: str, plans: dict, configuration: str, progress: bool = True) -> None:
    """nnU-Net's own preprocessing of the host's images by `plans`, into its data_identifier: whole, or not there.

    Raises:
        StitchError: nnU-Net cannot do it.
    """
    dataset = os.path.basename(folder)
    identifier = plans["configurations"][configuration]["data_identifier"]
    name = f".unfinished_{plans['plans_name']}"
    unfinished = os.path.join(folder, f".unfinished_{identifier}")
    temporary = copy.deepcopy(plans)
    temporary["configurations"][configuration]["data_identifier"] = os.path.basename(unfinished)
    plans_file = os.path.join(folder, f"{name}.json")
    try:
        write_json(plans_file, temporary)
        preprocess_dataset(convert_dataset_name_to_id(dataset), name, [configuration], [default_num_processes],
                           show_progress_bar=progress)
        os.replace(unfinished, os.path.join(folder, identifier))
    except (RuntimeError, ValueError, AssertionError, KeyError, OSError) as error:
        raise StitchError(f"nnU-Net cannot preprocess {dataset} as the partner's plans say ({last_line(error)}); check "
                          f"the images with nnUNetv2_plan_and_preprocess --verify_dataset_integrity") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if os.path.exists(plans_file):
            os.remove(plans_file)
