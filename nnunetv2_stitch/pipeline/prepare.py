"""Everything that is checked and decided before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results

from nnunetv2_stitch.bridging.bridge import Bridge
from nnunetv2_stitch.bridging.report import require_bridge
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.manifest import called, licence_of
from nnunetv2_stitch.exchange.parents import find_parties, require_different, require_parent
from nnunetv2_stitch.folders import require_plans_name
from nnunetv2_stitch.parties.datasets import data_digest
from nnunetv2_stitch.parties.model_folder import BASELINE_KEY, MADE_KEYS, ModelFolder
from nnunetv2_stitch.pipeline.continuing import as_begun, check_earlier_folds, check_folders, previous_plans
from nnunetv2_stitch.pipeline.job import TRAINERS, Job, Request
from nnunetv2_stitch.selection.retention import require_tolerance
from nnunetv2_stitch.selection.rules import GUIDED, RETAIN, RULES, position_at_progress
from nnunetv2_stitch.stitching.plans import (
    Layout,
    Training,
    count_parameters,
    lay_out,
    record_parent,
    stitched_plans,
    supernet_from_plans,
)
from nnunetv2_stitch.stitching.setting import Setting, in_ranges


def prepare(request: Request, continue_training: bool = False, dry_run: bool = False,
            unpack_into: str | None = None) -> Job:
    """Find all models, check that they can be stitched, match them and make the plans, with what earlier commands made
    under the same name; writes nothing but models that come as zips (see `read_party`), and these into `unpack_into`
    where it is given.

    `dry_run` leaves out what is checked of the folders to be written and of the preprocessed data: see `check_folders`.

    Raises:
        StitchError: anything that stands in the way, in one line.
    """
    job = examine(request, unpack_into)
    previous = previous_plans(job.plans_file)
    as_begun(job, previous)
    job.plans["configurations"] = {**(previous or {}).get("configurations", {}), **job.plans["configurations"]}
    if dry_run:
        check_earlier_folds(job, previous)
    else:
        check_folders(job, previous, continue_training)
    return job


def examine(request: Request, unpack_into: str | None = None) -> Job:
    """As `prepare`, where nothing were made under this name yet.

    Raises:
        StitchError: the parents cannot be stitched as asked for.
    """
    _check_request(request)
    host, partners = find_parties(request.dataset_a, request.model_a, request.configuration, request.trainer_a,
                                  request.plans_a, request.partners, request.checkpoint_name, request.checkpoint_a,
                                  unpack_into)
    reports = [require_bridge(host, p, asked.names) for p, asked in zip(partners, request.partners)]
    bridges = [r.bridge for r in reports]
    folds, partner_folds, layout = require_stitchable(request, host, partners, bridges)
    positions = _positions(request, layout)
    fixed = _fixed_positions(request, layout, positions)

    results = str(nnUNet_results)
    records = [record_parent(p, results, own, called(p), licence_of(p))
               for p, own in zip((host, *partners), ({f: f for f in folds}, *partner_folds))]
    setting = Setting.average_at(*fixed, output=request.output, combine=request.combine)
    training = Training(TRAINERS[request.fit], request.epochs, request.iterations,
                        Training.seed if request.seed is None else request.seed,
                        request.checkpoint_segments, setting.to_json() if fixed else None,
                        request.positions_per_pass, request.half_targets)
    plans = stitched_plans(host, partners, layout, request.plans_name, setting,
                           None if len(positions) == len(layout.matches) else positions, training, records, bridges,
                           data_digest(host.preprocessed_folder, host.configuration_manager.data_identifier))
    for key in MADE_KEYS:  # the host's own, not this model's
        plans.pop(key, None)
    if request.comparison:
        plans[BASELINE_KEY] = True
    configuration = plans["configurations"][host.configuration]
    with torch.device("meta"):
        network = supernet_from_plans(configuration, host.num_input_channels, host.num_outputs)
    return Job(request, host, partners, reports, layout, folds, partner_folds, plans, positions, fixed,
               {p: count_parameters(getattr(network, p)) for p in network.parties},
               sum(p.numel() for p in network.stitch_parameters()))


def require_stitchable(request: Request, host: ModelFolder, partners: Sequence[ModelFolder],
                       bridges: Sequence[Bridge | None]) -> tuple[list, list[dict], Layout]:
    """Folds of the host, of each partner by those, and the layout. Reads every checkpoint of these folds, so that a
    broken file is found before hours of training.

    Raises:
        StitchError: a fold that is not trained, networks without layers that match, or what `require_parent` refuses.
    """
    folds, partner_folds = _folds(request, host, partners)
    require_different([host, *partners], [{f: f for f in folds}, *partner_folds])
    for model, own in zip((host, *partners), (folds, *(f.values() for f in partner_folds))):
        for fold in sorted(set(own), key=str):
            require_parent(model, fold)
    return folds, partner_folds, lay_out(host, partners, "blocks" if request.positions == "blocks" else "all", bridges)


def _check_request(request: Request) -> None:
    require_plans_name(request.plans_name)
    for name, variable in (("nnUNet_results", nnUNet_results), ("nnUNet_preprocessed", nnUNet_preprocessed)):
        if not variable.is_set():
            raise StitchError(f"environment variable {name} is not set; set nnU-Net's three folders first")
    if request.rule not in (*RULES, RETAIN, GUIDED):
        raise StitchError(f"rule {request.rule!r} is not one of {', '.join((*RULES, RETAIN, GUIDED))}")
    require_tolerance(request.tolerance)
    if request.rule == "3" and request.position is None:
        raise StitchError("rule 3 needs -position K (an index) or -position 0.65 (progress in the host)")
    if request.positions_per_pass is not None and request.fit != "double_batched":
        raise StitchError(f"-positions_per_pass is for double-batched training; leave it out with -fit {request.fit}")
    if request.gate and request.output != "ensemble":
        raise StitchError(f"-gate on shares out the answer among all parties, so leave out -output {request.output}")
    if request.position is not None and request.rule != "3":
        raise StitchError("-position fixes the position by hand, which is rule 3; leave out -rule or use -rule 3")


def _folds(request, host, partners) -> tuple[list, list[dict]]:
    """Folds to stitch, and each partner's fold for each: `-f_b`, else the same fold, else `all`, else its first. A
    partner that was trained on with the host's images has not seen the validation cases of the same fold alone."""
    adapted = [p for p in partners if p.is_adapted and p.dataset_name == host.dataset_name]
    if request.folds is None:
        folds = [f for f in host.folds if f != "all"] or list(host.folds)
        folds = [f for f in folds if all(f in p.folds for p in adapted)] or folds
    else:
        folds = list(request.folds)
    for fold in folds:
        host.checkpoint_path(fold)
    if request.rule == "loo" and len(folds) < 2:
        raise StitchError("-rule loo needs at least two folds; use -rule 2 with one")
    theirs = []
    for partner, asked in zip(partners, request.partners):
        other = "all" if "all" in partner.folds else partner.folds[0]
        theirs.append({f: asked.fold if asked.fold is not None else f if f in partner.folds else other for f in folds})
        for fold in theirs[-1].values():
            partner.checkpoint_path(fold)
        unlike = next((f for f, other in theirs[-1].items() if f != other and partner in adapted), None)
        if unlike is not None:
            raise StitchError(f"{partner.path} was trained on with the host's images, and its fold "
                              f"{theirs[-1][unlike]} has seen fold {unlike}'s validation cases; adapt fold {unlike} "
                              f"too (nnUNetv2_adapt_party ... -f {unlike}), choose folds with -f, or leave out -f_b")
    return folds, theirs


def _positions(request, layout) -> list[int]:
    every = list(range(len(layout.matches)))
    if isinstance(request.positions, str):
        return every
    unknown = [p for p in request.positions if p not in every]
    if unknown or not request.positions:
        raise StitchError(f"-positions: there is no position {unknown[0] if unknown else 'given'}; these networks have "
                          f"0 to {every[-1]}")
    return sorted(set(request.positions))


def _fixed_positions(request, layout, positions) -> list[int]:
    """One for each partner, or none."""
    if request.position is None:
        return []
    asked, parties = request.position, list(layout.nodes)[1:]
    by_party = {party: [p for p in positions if layout.matches[p].party == party] for party in parties}
    if isinstance(asked, float):
        progress = layout.progress()
        return [own[position_at_progress([progress[p] for p in own], asked)] for own in by_party.values() if own]
    asked = [asked] if isinstance(asked, int) else list(asked)
    for position in asked:
        if position not in positions:
            raise StitchError(f"-position {position}: choose one of the positions with stitches, "
                              f"{in_ranges(positions)}; --dry_run names their layers")
    found = [layout.matches[p].party for p in asked]
    for party in parties:
        if found.count(party) != 1:
            raise StitchError(f"-position {' '.join(map(str, asked))}: give one position with each of "
                              f"{', '.join(parties)}, this has {found.count(party)} with {party}; --dry_run lists them")
    return sorted(asked)
