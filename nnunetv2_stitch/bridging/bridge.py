"""How a partner sees the host's input and how its answer comes back, as values with a JSON round trip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from nnunetv2_stitch.errors import StitchError

PER_PATCH = (None, "zscore", "range")


@dataclass(frozen=True)
class Intensity:
    """From the host's normalised intensities of one channel to the partner's: `clip(scale * x + shift, lower, upper)`.

    `per_patch` is for a partner that normalises by statistics of the whole image where the host's values are on
    another footing: then each patch is brought to mean 0 and variance 1 (`zscore`) or to [0, 1] (`range`).
    """

    scale: float = 1.0
    shift: float = 0.0
    lower: float | None = None
    upper: float | None = None
    per_patch: str | None = None

    def __post_init__(self):
        if self.per_patch not in PER_PATCH:
            raise StitchError(f"intensities per patch: {self.per_patch!r} is not one of {PER_PATCH}")

    @property
    def is_identity(self) -> bool:
        return self == Intensity()


@dataclass(frozen=True)
class Bridge:
    """What lies between the host's terms and the partner's network.

    `input_channels`, `num_outputs`: the partner's. `channels`: for each partner channel the host's. `intensities`: for
    each partner channel. `axes`: for each spatial axis of the partner the host's. `ratio`: partner voxels per host
    voxel, by partner axis. `multiple`: what the partner's input size must be divisible by, by partner axis; 1 where
    any size the host takes will do. `outputs`: for each host output the partner's outputs that mean it, none where the
    partner does not know the label; probabilities of several are added.
    """

    input_channels: int
    num_outputs: int
    channels: tuple[int, ...]
    intensities: tuple[Intensity, ...]
    axes: tuple[int, ...]
    ratio: tuple[float, ...]
    multiple: tuple[int, ...]
    outputs: tuple[tuple[int, ...], ...]

    @property
    def changes_grid(self) -> bool:
        """Whether the partner's feature maps lie on another grid than the host's."""
        return (self.axes != tuple(range(len(self.axes))) or any(r != 1 for r in self.ratio)
                or any(m != 1 for m in self.multiple))

    @property
    def changes_input(self) -> bool:
        return (self.changes_grid or self.channels != tuple(range(self.input_channels))
                or not all(i.is_identity for i in self.intensities))

    @property
    def changes_output(self) -> bool:
        return self.changes_grid or self.outputs != tuple((i,) for i in range(self.num_outputs))

    @property
    def unknown_outputs(self) -> tuple[int, ...]:
        """The host's outputs that the partner does not know."""
        return tuple(i for i, sources in enumerate(self.outputs) if not sources)

    @property
    def is_identity(self) -> bool:
        return not self.changes_input and not self.changes_output

    def to_json(self) -> dict:
        return {**asdict(self), "outputs": [list(o) for o in self.outputs],
                **{k: list(getattr(self, k)) for k in ("channels", "axes", "ratio", "multiple")},
                "intensities": [asdict(i) for i in self.intensities]}

    @classmethod
    def from_json(cls, value: Mapping) -> Bridge:
        """Raises StitchError for anything that is not a bridge: plans may come from elsewhere."""
        try:
            bridge = cls(
                int(value["input_channels"]), int(value["num_outputs"]), tuple(map(int, value["channels"])),
                tuple(Intensity(**i) for i in value["intensities"]), tuple(map(int, value["axes"])),
                tuple(map(float, value["ratio"])), tuple(map(int, value["multiple"])),
                tuple(tuple(map(int, o)) for o in value["outputs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StitchError(f"plans.json: the bridge to the partner is malformed ({error}); copy it again from its "
                              f"source") from error
        dims = len(bridge.axes)
        fits = (len(bridge.channels) == len(bridge.intensities) == bridge.input_channels
                and sorted(bridge.axes) == list(range(dims)) and len(bridge.ratio) == len(bridge.multiple) == dims
                and all(0 < r < float("inf") for r in bridge.ratio) and all(m > 0 for m in bridge.multiple)
                and all(0 <= o < bridge.num_outputs for outputs in bridge.outputs for o in outputs))
        if not fits:
            raise StitchError("plans.json: the bridge to the partner contradicts itself; copy it again from its source")
        return bridge
