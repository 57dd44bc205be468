"""Choosing a position with the numbers that partners sent: their files against the model, the front, the choice."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.selection.pareto import Front, PartyScores, find_front, mean_over_folds, prefer
from nnunetv2_stitch.selection.rules import common_positions
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.selection.sweeps_file import PartySweeps, read_sweeps
from nnunetv2_stitch.stitching.supernet import stitches_file

HOST = "host"


@dataclass(frozen=True)
class Choice:
    """A position chosen among those on the front, and how."""

    position: int
    preference: str
    output: str
    front: Front
    files: tuple[str, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict:
        return {"prefer": self.preference, "output": self.output, "files": list(self.files),
                "front": [row["position"] for row in self.front.rows()], **self.front.to_json()}


def choose_with_partners(model_folder: str, own: Sequence[Sweep], files: Sequence[str], preference: str = "balanced",
                         output: str = "ensemble") -> tuple[Choice, ...]:
    """Choose for all folds one position with each partner, from the host's sweeps and the files of its partners. With
    several partners each position is chosen by itself, by the numbers of all parties.

    Args:
        model_folder: the host's stitched model, whose stitches the files must be of.
        own: the host's sweeps of all trained folds.
        files: written by nnUNetv2_sweep_stitched, one per partner.
        preference: see `pareto.prefer`.
        output: whose head answers: `ensemble`, `host` or `partner`.

    Raises:
        StitchError: a file that is unreadable, of another model, of other positions, or the host's own.
    """
    sent = [read_sweeps(path) for path in files]
    digests = {str(s.fold): sha256(stitches_file(model_folder, s.fold)) for s in own}
    names = dict(zip(common_positions(own), own[0].names))
    for path, sweeps in zip(files, sent):
        _require_same_model(path, sweeps, digests, model_folder)
        _require_same_positions(path, sweeps, names)
    return tuple(_choose([s.only(party) for s in own],
                         [replace(s, sweeps=tuple(w.only(party) for w in s.sweeps)) for s in sent],
                         files, preference, output)
                 for party in sorted(set(own[0].parties)))


def _choose(own: Sequence[Sweep], sent: Sequence[PartySweeps], files: Sequence[str], preference: str,
            output: str) -> Choice:
    """Among the positions with one partner."""
    trained = common_positions(own)
    names = dict(zip(trained, own[0].names))
    positions = [p for p in trained if all(p in s.sweeps[0].positions for s in sent)]
    if not positions:
        raise StitchError(f"{' and '.join(files)} have no position in common; ask for sweeps of all positions "
                          f"(nnUNetv2_sweep_stitched without -positions)")
    remarks = [] if len(positions) == len(trained) else [
        f"Only {len(positions)} of {len(trained)} positions are compared, those that every file covers."]
    remarks += [f"{path} covers only {len(s.sweeps)} of {len(own)} folds." for path, s in zip(files, sent)
                if len(s.sweeps) < len(own)]
    titles = _titles(files)
    parties = [mean_over_folds(HOST, own, positions, output),
               *(mean_over_folds(t, s.sweeps, positions, output) for t, s in zip(titles, sent))]
    front = find_front(positions, [names[p] for p in positions], parties)
    position = prefer(front, preference)
    remarks += [line for p in parties[1:] for line in _worse(p, positions.index(position))]
    return Choice(position, preference, output, front, tuple(os.path.basename(f) for f in files), tuple(remarks))


def _require_same_model(path: str, sent: PartySweeps, digests: Mapping[str, str], model_folder: str) -> None:
    if sent.party == HOST:
        raise StitchError(f"{path} holds the host's own numbers, which are read from the model folder anyway; give "
                          f"-sweeps only what partners sent")
    for fold, digest in sent.model_sha256.items():
        if digests.get(fold) != digest:
            why = "has other stitches there" if fold in digests else "has no such fold trained"
            raise StitchError(f"{path} is of another model: it was made with fold {fold}, and {model_folder} {why} "
                              f"(sha256); send this folder to the partner and ask for nnUNetv2_sweep_stitched again")


def _require_same_positions(path: str, sent: PartySweeps, names: Mapping[int, str]) -> None:
    for sweep in sent.sweeps:
        for position, name in zip(sweep.positions, sweep.names):
            if names.get(position) != name:
                raise StitchError(f"{path} has position {position} at layer {name}, this model has "
                                  f"{names.get(position, 'none')} there; ask for nnUNetv2_sweep_stitched again, with "
                                  f"this model folder")


def _titles(files: Sequence[str]) -> list[str]:
    """What the partners are called in tables: `partner`, or by their files where there are several."""
    if len(files) == 1:
        return ["partner"]
    stems = [os.path.splitext(os.path.basename(f))[0] for f in files]
    return [s if stems.count(s) == 1 and s != HOST else f for s, f in zip(stems, files)]


def _worse(party: PartyScores, index: int) -> list[str]:
    """Plain words where the chosen position is worse for a partner than doing less."""
    value = party.values[index]
    whose = "the partner's cases" if party.party == "partner" else f"the cases of {party.party}"
    return [f"On {whose} the stitched ensemble ({value:.3f}) is worse than {what} ({other:.3f})."
            for what, other in (("the partner alone", party.partner), ("the plain ensemble", party.ensemble))
            if round(value, 3) < round(other, 3)]
