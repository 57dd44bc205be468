"""Another party's turn: sweep all positions of a stitched model on its own cases, with the model folder alone."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.model_folder import ModelFolder, read_model_folder
from nnunetv2_stitch.selection.party_cases import (
    CaseFiles,
    RawDataset,
    preprocess,
    raw_dataset,
    test_files,
    validation_files,
)
from nnunetv2_stitch.selection.party_terms import PartyTerms, party_terms
from nnunetv2_stitch.selection.scored_cases import ScoredCases, digest_of, score_cases
from nnunetv2_stitch.selection.sweep import PositionSweep, Sweep
from nnunetv2_stitch.selection.sweeps_file import PartySweeps
from nnunetv2_stitch.stitching.plans import STITCHING_KEY, ParentRecord, Stitching, shown_names
from nnunetv2_stitch.stitching.setting import in_ranges, party_names
from nnunetv2_stitch.stitching.supernet import stitches_file, supernet_of_folder


def sweep_party(model_folder: str, dataset: int | str, *, folds: Sequence[int | str] | None = None,
                positions: Sequence[int] | None = None, party: str | None = None, names: NameMaps = NO_MAPS,
                test_cases: bool = False, device: str | torch.device = "cuda", progress: bool = True,
                keep: str | None = None, continue_sweep: bool = False,
                say: Callable[[str], None] = lambda line: None) -> PartySweeps:
    """Dice of every position of a stitched model on labelled cases that the party's own parent was not trained on.

    Args:
        model_folder: of the stitched model, whole; neither parent's folder and no data of the host are needed.
        dataset: of nnUNet_raw, by id or name. The cases are the validation cases of the fold that this party's parent
            was trained with, by `splits_final.json` in nnUNet_preprocessed, else those of imagesTs and labelsTs.
        folds: of the stitched model; default all.
        positions: default all that have stitches.
        party: `host`, `partner`, `partner2`, ...; default: the one whose dataset the plans name like this one, else the
            partner, if there is only one.
        names: the dataset's labels and channels that have other names in the model.
        test_cases: take imagesTs and labelsTs in any case.
        device: where to compute.
        progress: show progress bars.
        keep: path without ending, beside which the scores of single cases are kept while the sweep runs; whoever writes
            the result removes them with `forget`. Default: nowhere.
        continue_sweep: take what an interrupted call has kept there.
        say: receives one line per step.

    Raises:
        StitchError: no stitched model, parts of it missing, or no cases that fit it.
    """
    model = _stitched_model(model_folder)
    folds = _folds(model, folds)
    data = raw_dataset(dataset)
    party = party or _party(model, data.name, say)
    terms = party_terms(model, data.dataset_json, names)
    if terms.unlabelled:
        said = ", ".join(str(model.label_manager.foreground_labels[i]) for i in terms.unlabelled)
        say(f"label {said} of the model has no reference in this dataset and is left out of the Dice")
    digests = {str(f): sha256(stitches_file(model.path, f)) for f in folds}
    files = {f: _cases(model, data, party, f, test_cases, say) for f in folds}
    device = torch.device(device)
    if keep and not continue_sweep:
        forget(keep)
    made_of = {f: {"stitches": digests[str(f)], "cases": digest_of(_contents(files[f]), terms)}
               for f in folds}
    sweeps = tuple(_sweep(model, f, files[f], terms, positions, device, progress,
                          ScoredCases(keep and f"{keep}.fold_{f}", made_of[f]), say) for f in folds)
    found = tuple(s for s in sweeps if s.scorable)
    if not found:
        listed = ", ".join(map(str, folds))
        raise StitchError(f"none of the {sum(s.cases for s in sweeps)} cases of fold {listed} holds any of the model's "
                          f"labels, so there is nothing to compare; check the dataset's labels and -label_map")
    for sweep in sweeps:
        if sweep not in found:
            say(f"fold {sweep.fold} is left out: none of its cases holds any of the model's labels")
    return PartySweeps(party, {str(s.fold): digests[str(s.fold)] for s in found}, found)


def forget(keep: str) -> None:
    """Remove the scores that `sweep_party` kept there, of all folds."""
    for path in glob.glob(f"{glob.escape(keep)}.fold_*.cases_*.jsonl"):
        os.remove(path)


def _stitched_model(folder: str) -> ModelFolder:
    model = read_model_folder(folder)
    if not model.is_stitched or not model.configuration_manager.configuration.get(STITCHING_KEY):
        raise StitchError(f"{folder} is no stitched model; give the folder that nnUNetv2_train_stitch made")
    if not len(_records(model)) == len(model.configuration_manager.network_arch_init_kwargs.get("parents", ())) > 1:
        raise StitchError(f"{folder}/plans.json does not name all parents; copy it again from its source")
    return model


def _folds(model: ModelFolder, wanted: Sequence[int | str] | None) -> list[int | str]:
    folds = [f for f in model.folds if f != "all"] or list(model.folds) if wanted is None else list(wanted)
    if not folds:
        raise StitchError(f"{model.path} has no fold with checkpoint_final.pth; ask the host for the whole folder")
    for fold in folds:
        model.checkpoint_path(fold)
    return folds


def _records(model: ModelFolder) -> tuple[ParentRecord, ...]:
    return Stitching.of(model.configuration_manager.configuration).parents


def _party(model: ModelFolder, dataset_name: str, say: Callable[[str], None]) -> str:
    known = [r.dataset for r in _records(model)]
    names = party_names(len(known))
    if dataset_name == known[0] or known.count(dataset_name) == 1:  # twice where a partner was adapted
        return names[known.index(dataset_name)]
    said = ", ".join(f"{d} ({n})" for d, n in zip(shown_names(_records(model)), names))
    if len(known) > 2:
        raise StitchError(f"the model's datasets are {said}; say with -party which of them {dataset_name} is")
    say(f"the model's datasets are {said}, so {dataset_name} is taken for the partner's; -party host says otherwise")
    return names[1]


def _cases(model: ModelFolder, data: RawDataset, party: str, fold: int | str, test_cases: bool,
           say: Callable[[str], None]) -> list[CaseFiles]:
    """Cases that the party's parent behind this fold has not seen."""
    names = party_names(len(_records(model)))
    if party not in names:
        raise StitchError(f"-party {party}: the model's parties are {', '.join(names)}")
    record = _records(model)[names.index(party)]
    if str(fold) not in record.folds:
        raise StitchError(f"{model.path}/plans.json does not say which fold of {record.dataset} fold {fold} was "
                          f"stitched with; copy the model folder again, or take other folds with -f")
    own = record.folds[str(fold)]["fold"]
    if not test_cases and own != "all" and data.splits_file:
        cases = validation_files(data, own)
        where = f"validation cases of fold {own}"
    elif data.has_test_cases:
        cases = test_files(data.folder, data.dataset_json["file_ending"])
        where = "test cases"
    else:
        why = (" (fold all was trained on every training case)" if own == "all" else
               "" if test_cases else " and no splits_final.json in nnUNet_preprocessed")
        raise StitchError(f"{data.folder} has no imagesTs and labelsTs{why}, so there is no case that the model has "
                          f"not seen; add labelled test cases")
    if not cases:
        raise StitchError(f"fold {own} of {data.name} has no validation cases; take the test cases (--test_cases)")
    say(f"fold {fold}: {len(cases)} {where} of {data.name}")
    return cases


def _contents(files: Sequence[CaseFiles]) -> list[list[str]]:
    return [[sha256(path) for path in (*case.images, case.label)] for case in files]


def _sweep(model: ModelFolder, fold: int | str, files: Sequence[CaseFiles], terms: PartyTerms,
           positions: Sequence[int] | None, device: torch.device, progress: bool, kept: ScoredCases,
           say: Callable[[str], None]) -> Sweep:
    network = supernet_of_folder(model, fold)
    unknown = sorted(set(positions or ()) - set(network.positions))
    if unknown:
        raise StitchError(f"-positions: the model has no stitch at position {unknown[0]}, only at "
                          f"{in_ranges(network.positions)}")
    sweeper = PositionSweep(network, model.plans_manager, model.configuration_manager, terms.dataset_json, device,
                            None if positions is None else sorted(set(positions)))
    kept.made_of |= {"positions": sweeper.positions, "rows": len(sweeper.rows)}

    apart: dict[str, str] = {}

    def score(case: int) -> np.ndarray:
        values = sweeper.score_case(*preprocess(files[case], terms, model.plans_manager, model.configuration_manager,
                                                apart.setdefault))
        values[:, list(terms.unlabelled)] = np.nan
        return values

    scores = score_cases(score, len(files), kept, f"fold {fold}: {len(sweeper.positions)} positions", progress, say)
    if apart:
        path, how = next(iter(apart.items()))
        say(f"{len(apart)} of {len(files)} references lie elsewhere than their images, first {path}: {how}; they were "
            f"compared voxel by voxel, as nnU-Net does")
    return sweeper.summarise(fold, scores, [network.matches[p]["host_path"] for p in sweeper.positions])
