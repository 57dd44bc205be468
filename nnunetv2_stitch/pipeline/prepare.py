"""Everything that is checked and decided before anything is written."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results

from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps
from nnunetv2_stitch.bridging.report import Report, require_bridge
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.facts import received_manifest
from nnunetv2_stitch.exchange.finding import find_parties
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.pipeline.memory import MemoryEstimate, estimate_memory
from nnunetv2_stitch.selection.rules import position_at_progress
from nnunetv2_stitch.stitching.network import CLASS_PATH, build_parent
from nnunetv2_stitch.stitching.plans import (
    Layout,
    Training,
    count_parameters,
    lay_out,
    record_parent,
    stitched_plans,
    supernet_from_plans,
)
from nnunetv2_stitch.stitching.setting import Setting

TRAINERS = {"double_batched": "nnUNetTrainerStitch", "direct": "nnUNetTrainerStitchDirect",
            "task": "nnUNetTrainerStitchTask"}


@dataclass(frozen=True)
class Request:
    """What the user asked for, one field per flag of nnUNetv2_train_stitch. None means: choose sensibly."""

    dataset_a: str | int | None
    dataset_b: str | int | None
    model_a: str | None = None
    model_b: str | None = None
    configuration: str | None = None
    folds: Sequence[int | str] | None = None
    trainer_a: str | None = None
    trainer_b: str | None = None
    plans_a: str | None = None
    plans_b: str | None = None
    fold_b: int | str | None = None
    checkpoint_name: str = "checkpoint_final.pth"
    fit: str = "double_batched"
    positions: str | Sequence[int] = "all"
    rule: str = "2"
    position: int | float | None = None
    output: str = "ensemble"
    combine: str = "probabilities"
    epochs: int | None = None
    iterations: int | None = None
    plans_name: str = "nnUNetStitchPlans"
    seed: int = 12345
    checkpoint_segments: int = 1
    names: NameMaps = NO_MAPS


@dataclass(frozen=True)
class Job:
    """A checked request: both parties, the layout, the folds and the plans to be written."""

    request: Request
    host: ModelFolder
    partner: ModelFolder
    report: Report
    layout: Layout
    folds: list[int | str]
    partner_folds: dict[int | str, int | str]
    plans: dict
    positions: list[int]
    fixed_position: int | None
    host_parameters: int
    partner_parameters: int
    stitch_parameters: int
    memory: MemoryEstimate

    @property
    def trainer(self) -> str:
        return TRAINERS[self.request.fit]

    @property
    def model_folder(self) -> str:
        return os.path.join(str(nnUNet_results), self.host.dataset_name,
                            f"{self.trainer}__{self.request.plans_name}__{self.host.configuration}")

    @property
    def preprocessed_folder(self) -> str:
        return os.path.join(str(nnUNet_preprocessed), self.host.dataset_name)

    @property
    def plans_file(self) -> str:
        return os.path.join(self.preprocessed_folder, f"{self.request.plans_name}.json")


def prepare(request: Request, continue_training: bool = False, dry_run: bool = False) -> Job:
    """Find both models, check that they can be stitched, match them and make the plans; writes nothing.

    `dry_run` asks for no folder that could be written to and no preprocessed data.

    Raises:
        StitchError: anything that stands in the way, in one line.
    """
    _check_request(request)
    host, partner = find_parties(request.dataset_a, request.dataset_b, request.model_a, request.model_b,
                                 request.configuration, request.trainer_a, request.trainer_b, request.plans_a,
                                 request.plans_b, request.checkpoint_name)
    report = require_bridge(host, partner, request.names)
    folds, partner_folds = _folds(request, host, partner)
    layout = lay_out(host, partner, "blocks" if request.positions == "blocks" else "all", report.bridge)
    positions = _positions(request, layout)
    fixed = _fixed_position(request, layout, positions)
    _check_weights(host, partner, folds, partner_folds)

    results = str(nnUNet_results)
    records = [record_parent(p, results, own, *_sender(p))
               for p, own in ((host, {f: f for f in folds}), (partner, partner_folds))]
    setting = Setting({} if fixed is None else {fixed: "average"}, request.output, request.combine)
    training = Training(TRAINERS[request.fit], request.epochs, request.iterations, request.seed,
                        request.checkpoint_segments, None if fixed is None else setting.to_json())
    plans_file = os.path.join(str(nnUNet_preprocessed), host.dataset_name, f"{request.plans_name}.json")
    previous = _previous_plans(plans_file)
    plans = stitched_plans(host, partner, layout, request.plans_name, setting,
                           None if len(positions) == len(layout.matches) else positions, training, records, previous,
                           report.bridge)
    stitched = plans["configurations"][host.configuration]
    network = supernet_from_plans(stitched, host.num_input_channels, host.num_outputs)
    configuration = host.configuration_manager
    job = Job(request, host, partner, report, layout, folds, partner_folds, plans, positions, fixed,
              count_parameters(network.host), count_parameters(network.partner),
              sum(p.numel() for p in network.stitch_parameters()),
              estimate_memory(layout, positions, configuration.patch_size, configuration.batch_size))
    if not dry_run:
        _check_folders(job, previous, continue_training)
    return job


def _sender(party: ModelFolder) -> tuple[str, str]:
    """Name and licence that came with a party's model."""
    manifest = received_manifest(party)
    return ("", "") if manifest is None else (manifest.name, manifest.licence)


def _check_request(request: Request) -> None:
    if "__" in request.plans_name or not request.plans_name:
        raise StitchError(f"plans name {request.plans_name!r} must not be empty or contain a double underscore: "
                          f"nnU-Net splits folder names there")
    for name, variable in (("nnUNet_results", nnUNet_results), ("nnUNet_preprocessed", nnUNet_preprocessed)):
        if not variable.is_set():
            raise StitchError(f"environment variable {name} is not set; set nnU-Net's three folders first")
    if request.rule == "3" and request.position is None:
        raise StitchError("rule 3 needs -position K (an index) or -position 0.65 (progress in the host)")
    if request.position is not None and request.rule != "3":
        raise StitchError("-position fixes the position by hand, which is rule 3; leave out -rule or use -rule 3")


def _folds(request, host, partner) -> tuple[list, dict]:
    """Folds to stitch, and the partner's fold for each: `-f_b`, else the same fold, else `all`, else its first."""
    if request.folds is None:
        folds = [f for f in host.folds if f != "all"] or list(host.folds)
    else:
        folds = list(request.folds)
    for fold in folds:
        host.checkpoint_path(fold)
    partners = {}
    for fold in folds:
        if request.fold_b is not None:
            partners[fold] = request.fold_b
        elif fold in partner.folds:
            partners[fold] = fold
        else:
            partners[fold] = "all" if "all" in partner.folds else partner.folds[0]
        partner.checkpoint_path(partners[fold])
    if request.rule == "loo" and len(folds) < 2:
        raise StitchError("-rule loo needs at least two folds; use -rule 2 with one")
    return folds, partners


def _positions(request, layout) -> list[int]:
    every = list(range(len(layout.matches)))
    if isinstance(request.positions, str):
        return every
    unknown = [p for p in request.positions if p not in every]
    if unknown or not request.positions:
        raise StitchError(f"-positions: there is no position {unknown[0] if unknown else 'given'}; these networks have "
                          f"0 to {every[-1]}")
    return sorted(set(request.positions))


def _fixed_position(request, layout, positions) -> int | None:
    if request.position is None:
        return None
    position = request.position
    if isinstance(position, float):
        progress = layout.progress()
        return positions[position_at_progress([progress[p] for p in positions], position)]
    if position not in positions:
        raise StitchError(f"-position {position}: choose one of the trained positions {positions[0]} to "
                          f"{positions[-1]}; --dry_run lists them")
    return position


def _check_weights(host, partner, folds, partner_folds) -> None:
    """Read every checkpoint and try it in its network, so that a broken file is found before hours of training."""
    networks = [build_parent(p.network_spec, p.num_input_channels, p.num_outputs) for p in (host, partner)]
    todo = {(0, f) for f in folds} | {(1, partner_folds[f]) for f in folds}
    for side, fold in sorted(todo, key=str):
        path = (host, partner)[side].checkpoint_path(fold)
        load_weights(networks[side], network_weights(load_checkpoint(path)), path)


def _previous_plans(plans_file: str) -> dict | None:
    if not os.path.isfile(plans_file):
        return None
    plans = read_json(plans_file)
    classes = [c.get("architecture", {}).get("network_class_name") for c in plans["configurations"].values()]
    if any(c != CLASS_PATH for c in classes):
        raise StitchError(f"{plans_file} holds other plans, not stitched ones; choose another name with -o_p")
    return plans


def _check_folders(job: Job, previous: dict | None, continue_training: bool) -> None:
    data = os.path.join(job.preprocessed_folder, job.host.configuration_manager.data_identifier)
    for path in (data, os.path.join(job.preprocessed_folder, "dataset.json")):
        if not os.path.exists(path):
            raise StitchError(f"{path} does not exist: the host's data must be preprocessed here; run "
                              f"nnUNetv2_preprocess -d {job.host.dataset_name} -plans_name {job.host.plans_name} "
                              f"-c {job.host.configuration}")
    for folder in (job.preprocessed_folder, os.path.dirname(job.model_folder)):
        if not os.access(folder, os.W_OK):
            raise StitchError(f"no permission to write into {folder}; change its permissions or the nnU-Net folders")
    started = [f for f in job.folds if os.path.isdir(os.path.join(job.model_folder, f"fold_{f}"))]
    if started and not continue_training:
        raise StitchError(f"{job.model_folder} already holds fold {started[0]}; add --c to go on, -o_p NAME to keep it "
                          f"and make another, or delete it")
    _keep_other_folds(job, previous)
    _go_on_as_begun(job, previous)


def _go_on_as_begun(job: Job, previous: dict | None) -> None:
    """A fold that was interrupted goes on with the length and the seed that it was begun with."""
    begun = [f for f in job.folds if os.path.isfile(os.path.join(job.model_folder, f"fold_{f}",
                                                                 "checkpoint_latest.pth"))]
    old, new = (p.get("configurations", {}).get(job.host.configuration, {}).get("stitching", {}).get("training", {})
                for p in (previous or {}, job.plans))
    for key, flag in (("num_epochs", "-epochs"), ("num_iterations_per_epoch", "-iterations"), ("seed", "-seed")):
        if begun and key in old and old[key] != new[key]:
            before, now = ("its default" if v is None else v for v in (old[key], new[key]))
            raise StitchError(f"fold {begun[0]} was begun with {flag} {before}, not {now}; go on with the same, or use "
                              f"-o_p NAME for another model")


def _keep_other_folds(job: Job, previous: dict | None) -> None:
    """Folds may be trained one command at a time, so what earlier commands wrote into the plans must fit and stay."""
    name = job.host.configuration
    old, new = (p.get("configurations", {}).get(name) for p in (previous or {}, job.plans))
    trained = glob.glob(os.path.join(glob.escape(os.path.dirname(job.model_folder)),
                                     f"*__{job.request.plans_name}__{name}", "fold_*"))
    if old is None or not trained:
        return
    if _identity(old) != _identity(new):
        raise StitchError(f"{job.plans_file} was made for other parents, positions or checkpoints, and "
                          f"{os.path.dirname(trained[0])} was trained with it; give the same arguments as then, "
                          f"or -o_p NAME for another model")
    folds = {os.path.basename(path)[len("fold_"):] for path in trained}
    for ours, theirs in zip(new["stitching"]["parents"], old["stitching"]["parents"]):
        for fold in folds & theirs["folds"].keys():
            entry = theirs["folds"][fold]
            if ours["folds"].setdefault(fold, entry) != entry:
                raise StitchError(f"fold {fold} was stitched with fold {entry['fold']} of {ours['dataset']}, which is "
                                  f"not what it would be stitched with now (fold or sha256 differs); give the same "
                                  f"-f_b as then, or -o_p NAME for another model")


def _identity(configuration: dict) -> tuple:
    """What must not change between a training and its continuation, and among folds."""
    arguments = configuration["architecture"]["arch_kwargs"]
    parents = configuration["stitching"]["parents"]
    return (arguments["parents"], [(m["host"], m["partner"]) for m in arguments["matches"]], arguments["positions"],
            arguments.get("bridge"),
            [(p["dataset"], p["trainer"], p["plans"], p["checkpoint"]) for p in parents])
