"""nnU-Net's predictor for stitched models: safe loading, several ways to answer, disagreement of the parents."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import image_files
from nnunetv2_stitch.inference.find import results_folder, stitched_configuration
from nnunetv2_stitch.inference.images import ImagePredictor
from nnunetv2_stitch.inference.maps import (
    disagreement,
    preprocessed,
    segmentation_and_probabilities,
    share_maps,
)
from nnunetv2_stitch.inference.shares import forget_shares, require_ours, require_same_parties, write_shares
from nnunetv2_stitch.nnunet_internals import uncompiled
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.checkpoint_writing import require_deployed
from nnunetv2_stitch.parties.model_folder import folds_to_use
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble
from nnunetv2_stitch.stitching.plans import Stitching, shown_names
from nnunetv2_stitch.stitching.setting import Setting, decode_setting, encode_setting
from nnunetv2_stitch.stitching.supernet import load_supernet


class StitchedPredictor(ImagePredictor):
    """nnUNetPredictor for stitched models; everything that is not redefined here is nnU-Net's.

    Stays initialised between cases: initialise once, then call `predict_from_files`, `predict_single_npy_array` or
    any other of nnU-Net's methods as often as you like, and change `mode` in between.

    Example:
        >>> predictor = StitchedPredictor(device=torch.device("cpu"))
        >>> predictor.initialize_from_trained_model_folder(folder, use_folds=None, mode="stitched")
        >>> predictor.predict_from_files_sequential(input_folder, output_folder)
    """

    _shares_folder: str | None = None

    def initialize_from_trained_model_folder(self, model_training_output_dir: str, use_folds=None,
                                             checkpoint_name: str = "checkpoint_final.pth",
                                             mode: str = "stitched") -> None:
        """As nnU-Net's, without executing anything from the folder and without looking for a trainer class.

        Args:
            mode: `stitched` as deployed; `ensemble`, `host`, `partner` (and `partner2`, ...) answer with the untouched
                parents.

        Raises:
            StitchError: not a stitched model, a fold or checkpoint missing or broken, or a mode that the deployed
                checkpoint does not hold the weights for.
        """
        folder = model_training_output_dir
        configuration = stitched_configuration(folder)
        folds = [use_folds] if isinstance(use_folds, (str, int)) else use_folds
        folds = folds_to_use(folder, None if folds is None else list(folds), checkpoint_name)
        paths = [os.path.join(folder, f"fold_{f}", checkpoint_name) for f in folds]
        checkpoints = [load_checkpoint(p) for p in paths]
        weights = [c["network_weights"] for c in checkpoints]
        for path, w, checkpoint in zip(paths, weights, checkpoints):
            if SETTING_KEY not in w:
                raise StitchError(f"{path} holds no stitched ensemble; check -chk and the folder")
            require_deployed(path, checkpoint)
        self._use(folder, configuration, weights, paths, checkpoints[0].get("inference_allowed_mirroring_axes"))
        self.set_mode(mode)

    def initialize_from_stitches(self, model_folder: str, settings: Mapping[int | str, Setting]) -> None:
        """Answer under other settings than the deployed one, a setting per fold, from the trained supernets.

        Raises:
            StitchError: parents or stitches of a fold missing or changed.
        """
        configuration = stitched_configuration(model_folder)
        plans, dataset_json = (read_json(os.path.join(model_folder, f)) for f in ("plans.json", "dataset.json"))
        weights, paths, mirroring = [], [], None
        for fold, setting in settings.items():
            network = load_supernet(plans, configuration, dataset_json, fold, model_folder, results_folder())
            weights.append(network.deployed(setting).state_dict())
            paths.append(os.path.join(model_folder, f"fold_{fold}", "checkpoint_final.pth"))
            mirroring = load_checkpoint(paths[-1]).get("inference_allowed_mirroring_axes")
        self._use(model_folder, configuration, weights, paths, mirroring)
        self.set_mode("stitched")

    def _use(self, folder: str, configuration: str, weights: list[dict], paths: list[str], mirroring) -> None:
        dataset_json = read_json(os.path.join(folder, "dataset.json"))
        plans_manager = PlansManager(read_json(os.path.join(folder, "plans.json")))
        configuration_manager = plans_manager.get_configuration(configuration)
        network = StitchedEnsemble(
            determine_num_input_channels(plans_manager, configuration_manager, dataset_json),
            plans_manager.get_label_manager(dataset_json).num_segmentation_heads,
            **configuration_manager.network_arch_init_kwargs)
        self._deployed, self._paths = weights, paths
        self.manual_initialization(network, plans_manager, configuration_manager, weights, dataset_json,
                                   "nnUNetTrainer", mirroring)

    def set_mode(self, mode: str) -> None:
        """Answer as `stitched`, plain `ensemble`, or as one of the network's `parties` from now on.

        Raises:
            StitchError: the deployed checkpoint lacks what this mode needs.
        """
        network = self.uncompiled
        modes = ("stitched", "ensemble", *network.parties)
        if mode not in modes:
            raise StitchError(f"mode {mode!r} is not one of {', '.join(modes)}")
        parameters = []
        for weights, path in zip(self._deployed, self._paths):
            weights = {**weights, SETTING_KEY: encode_setting(_setting_of(weights, mode))}
            try:
                network.load_state_dict(weights)
            except StitchError as error:
                raise StitchError(f"{path} cannot answer as {mode}: it was pruned to what its own setting needs; "
                                  f"use -mode stitched, or train with -output ensemble") from error
            needed = network.state_dict()
            parameters.append({k: v for k, v in weights.items() if k in needed})
        network.uses_gate = mode == "stitched"
        self.list_of_parameters, self.mode = parameters, mode
        if self.device.type == "cuda":  # where nnU-Net predicts under autocast, whose default is this precision
            self.network.store_convolutions(torch.get_autocast_dtype("cuda"))

    @property
    def uncompiled(self) -> StitchedEnsemble:
        """The network itself, also where nnU-Net has compiled it (`nnUNet_compile`), which renames its weights."""
        return uncompiled(self.network)

    def answering_as(self, mode: str) -> StitchedPredictor:
        """Another predictor with a network of its own, on the same weights, that answers in another mode."""
        other = copy.copy(self)
        other.network = self.uncompiled.like(_setting_of(self._deployed[0], mode))
        other.set_mode(mode)
        return other

    def before_prediction(self) -> None:
        self.case_shares: list[list[float]] = []  # of the cases that are predicted, in their order, where a gate is on
        if self._shares_folder is not None:
            forget_shares(self._shares_folder, self._cases)
            if self.uncompiled.is_gated:
                require_same_parties(self._shares_folder, self.party_names)

    @contextmanager
    def keeping_shares_in(self, output_folder: str) -> Iterator[None]:
        """Within, where a folder is predicted, `shares.json` in `output_folder` stays true: what it says of a case goes
        when that is predicted anew, and where a gate is on the new shares come as soon as they are known, so that an
        interruption loses none.

        Raises:
            StitchError: a gate is on, and a file of this name is none of ours; or, as soon as the cases are known, it
                has others of a model of other parties.
        """
        if self.uncompiled.is_gated:
            require_ours(output_folder)
        self._shares_folder = output_folder
        try:
            yield
        finally:
            self._shares_folder = None

    def predict_logits_from_preprocessed_data(self, data):
        """As nnU-Net's. What share each party had, on the mean over tiles, mirrored passes and folds, is noted."""
        network = self.uncompiled
        if not network.is_gated:
            return super().predict_logits_from_preprocessed_data(data)
        network.shares_seen = []
        try:
            logits = super().predict_logits_from_preprocessed_data(data)
            self.case_shares = [*getattr(self, "case_shares", []), torch.cat(network.shares_seen).mean(0).tolist()]
        finally:
            network.shares_seen = None
        if self._shares_folder is not None:
            case, shares = self._cases[len(self.case_shares) - 1], self.case_shares[-1]
            write_shares(self._shares_folder, self.party_names, {case: shares})
        return logits

    def predict_from_files_sequential(self, list_of_lists_or_source_folder,
                                      output_folder_or_list_of_truncated_output_files,
                                      save_probabilities: bool = False, overwrite: bool = True,
                                      folder_with_segs_from_prev_stage: str | None = None):
        """As nnU-Net's, which expects the output folder to exist. (It reads its own parameters' names, so they are
        the same here.)"""
        if isinstance(output_folder_or_list_of_truncated_output_files, str):
            os.makedirs(output_folder_or_list_of_truncated_output_files, exist_ok=True)
        return super().predict_from_files_sequential(
            list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files, save_probabilities,
            overwrite, folder_with_segs_from_prev_stage)

    def save_disagreement(self, input_folder: str, output_folder: str, overwrite: bool = True, num_parts: int = 1,
                          part_id: int = 0) -> list[str]:
        """Write a map per case of where the untouched parents differ, in percent, into `output_folder`.

        Percent are half the sum over classes of the absolute difference of two parents' probabilities (total
        variation; the largest difference over regions for region-based models): 0 where they agree, 100 where each
        is certain of something else. Of several parents, the two that differ most at a voxel count. Same geometry and
        file format as the segmentations.

        Args:
            overwrite: maps that are there already.
            num_parts, part_id: as nnU-Net's, to share the cases out among processes.

        Raises:
            StitchError: the deployed checkpoint does not hold all parents.
        """
        parents = [self.answering_as(party) for party in self.uncompiled.parties]

        def map_of(data, properties):
            found = [segmentation_and_probabilities(parent, data, properties)[1] for parent in parents]
            return disagreement(found, self.label_manager.has_regions)

        return self._save_maps(map_of, input_folder, output_folder, overwrite, num_parts, part_id)

    @property
    def party_names(self) -> dict[str, str]:
        """What each party of the network is called, the host first."""
        found, parties = Stitching.find(self.configuration_manager.configuration), self.uncompiled.parties
        return dict(zip(parties, shown_names(found.parents) if found and found.parents else parties))

    @property
    def _cases(self) -> list[str]:
        """The names of `inputs`."""
        ending = len(self.dataset_json["file_ending"]) + 5
        return [os.path.basename(files[0])[:-ending] for files in self.inputs]

    def save_share_maps(self, input_folder: str, output_folder: str, overwrite: bool = True, num_parts: int = 1,
                        part_id: int = 0) -> list[str]:
        """Write a map per case of the host's share of the answer, in percent, into `output_folder`; 0 outside the box
        that nnU-Net crops to. Nothing where no gate is on. Same geometry and file format as the segmentations.

        Args:
            overwrite: maps that are there already.
            num_parts, part_id: as nnU-Net's, to share the cases out among processes.
        """
        if not self.uncompiled.is_gated:
            return []
        host = self.uncompiled.parties[0]

        def host_share(data, properties):
            return share_maps(self, data, properties, [host])[host]

        return self._save_maps(host_share, input_folder, output_folder, overwrite, num_parts, part_id)

    def _save_maps(self, make, input_folder: str, output_folder: str, overwrite: bool, num_parts: int,
                   part_id: int) -> list[str]:
        """Write `make(data, properties)` of each case, data as preprocessed, result in the image's own geometry."""
        ending = self.dataset_json["file_ending"]
        cases = list(image_files(input_folder, ending).values())[part_id::num_parts]
        os.makedirs(output_folder, exist_ok=True)
        writer = self.plans_manager.image_reader_writer_class()
        written = []
        for files in cases:
            path = os.path.join(output_folder, os.path.basename(files[0])[:-len(ending) - 5] + ending)
            if not overwrite and os.path.isfile(path):
                continue
            data, properties = preprocessed(self, files)
            writer.write_seg(make(data, properties), path, properties)
            written.append(path)
        return written


def _setting_of(weights: Mapping, mode: str) -> Setting:
    """Under which deployed weights answer in a mode."""
    own = decode_setting(weights[SETTING_KEY])
    return own if mode == "stitched" else Setting({}, mode, own.combine)
