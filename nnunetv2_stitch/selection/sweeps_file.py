"""The file in which one party's numbers travel: Dice per position and output, no case, path or dataset named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.untrusted_json import MAX_NUMBER, is_number, is_whole
from nnunetv2_stitch.selection.sweep import HEADS, Sweep
from nnunetv2_stitch.stitching.setting import OUTPUT

FORMAT = 1
DIGITS = 6  # more would tell apart nothing but single voxels


@dataclass(frozen=True)
class PartySweeps:
    """The sweeps of one stitched model on one party's cases, one per fold. `party` says which parent's party it is,
    `model_sha256` by fold which stitches were swept."""

    party: str
    model_sha256: Mapping[str, str]
    sweeps: tuple[Sweep, ...]

    def to_json(self) -> dict:
        return {"format": FORMAT, "party": self.party, "model_sha256": dict(self.model_sha256),
                "sweeps": [_rounded(s).to_json() for s in self.sweeps]}

    @classmethod
    def from_json(cls, value: Mapping) -> PartySweeps:
        """Raises ValueError, saying what is wrong, for anything else than `to_json` gives."""
        _require(isinstance(value, Mapping) and "sweeps" in value, "it holds no sweeps")
        _require(value.get("format") == FORMAT, f"format {value.get('format')!r}, this version reads {FORMAT}")
        _require(_is_party(value.get("party")), f"party {value.get('party')!r} is not host, partner, partner2, ...")
        digests = value.get("model_sha256")
        _require(isinstance(digests, Mapping), "model_sha256 is missing")
        _require(isinstance(value["sweeps"], list) and value["sweeps"], "it holds no sweeps")
        sweeps = tuple(_sweep(s) for s in value["sweeps"])
        folds = [str(s.fold) for s in sweeps]
        _require(len(set(folds)) == len(folds), "a fold is there twice")
        _require(all(s.positions == sweeps[0].positions for s in sweeps), "its folds cover different positions")
        _require(set(folds) == set(digests) and all(isinstance(d, str) for d in digests.values()),
                 "model_sha256 does not name the folds of its sweeps")
        return cls(value["party"], dict(digests), sweeps)


def read_sweeps(path: str) -> PartySweeps:
    """Raises StitchError if the file is missing, cut short or anything else than nnUNetv2_sweep_stitched writes."""
    try:
        return PartySweeps.from_json(read_json(path))
    except ValueError as error:
        raise StitchError(f"{path} is not what nnUNetv2_sweep_stitched writes ({error}); ask its sender for the file "
                          f"again") from error


def _rounded(sweep: Sweep) -> Sweep:
    lists = {h: [round(float(v), DIGITS) for v in getattr(sweep, h)] for h in HEADS}
    return replace(sweep, **lists, baselines={k: round(float(v), DIGITS) for k, v in sweep.baselines.items()})


def _sweep(value) -> Sweep:
    """Every field is looked at, because the file comes from elsewhere."""
    try:
        sweep = Sweep.from_json(value)
    except TypeError as error:
        raise ValueError(f"a sweep lacks fields or has unknown ones: {error}") from error
    _require(sweep.fold == "all" or _is_count(sweep.fold), f"fold {sweep.fold!r}")
    _require(isinstance(sweep.positions, list) and sweep.positions and all(map(_is_count, sweep.positions)),
             "positions are not whole numbers")
    _require(sorted(set(sweep.positions)) == sweep.positions, "positions are not in order")
    _require(_is_count(sweep.cases) and sweep.cases > 0, f"cases {sweep.cases!r}")
    _require(isinstance(sweep.parties, list) and len(sweep.parties) == len(sweep.positions)
             and all(p != "host" and _is_party(p) for p in sweep.parties), "parties: not a partner for each position")
    _require(isinstance(sweep.baselines, dict) and {"host", "partner", "ensemble", *sweep.parties}
             <= set(sweep.baselines), "baselines are missing")
    for name, values in (*((h, getattr(sweep, h)) for h in HEADS), ("baselines", [*sweep.baselines.values()])):
        _require(isinstance(values, list) and all(map(_is_dice, values)), f"{name} is not a list of Dice values")
        _require(name == "baselines" or len(values) == len(sweep.positions), f"{name} has no value for each position")
    _require(isinstance(sweep.names, list) and len(sweep.names) == len(sweep.positions)
             and all(isinstance(n, str) for n in sweep.names), "names are not a name for each position")
    return sweep


def _is_party(value) -> bool:
    return isinstance(value, str) and value != "ensemble" and OUTPUT.fullmatch(value) is not None


def _is_count(value) -> bool:
    return is_whole(value, 0, MAX_NUMBER)


def _is_dice(value) -> bool:
    return is_number(value) and 0 <= value <= 1


def _require(condition, said: str) -> None:
    if not condition:
        raise ValueError(said)
