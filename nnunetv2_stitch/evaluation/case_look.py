"""One case under a stitched model: what each party says, where they differ and who answered, as files and a picture."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.grids import Grid, difference, grid_of
from nnunetv2_stitch.evaluation.labels import Labels
from nnunetv2_stitch.evaluation.output import value_names
from nnunetv2_stitch.evaluation.segmentations import file_endings, read_segmentation, reader_for
from nnunetv2_stitch.evaluation.worst_cases import per_slice, slice_axis, upright
from nnunetv2_stitch.figures.case_view import Panel, Row, case_view
from nnunetv2_stitch.folders import files_in, image_files

if TYPE_CHECKING:
    from nnunetv2_stitch.inference.predictor import StitchedPredictor

SLICES = 3
STITCHED, DISAGREEMENT, SHARE = "stitched", "disagreement", "share_"


@dataclass(frozen=True)
class Case:
    """A case to look at: its channels' files in their order, and the one whose image is shown."""

    name: str
    files: tuple[str, ...]
    shown: str


@dataclass(frozen=True)
class CaseLook:
    """What a stitched model says of one case, arrays `(z, y, x)` in the image's own geometry.

    `answers`: labels by party and `stitched`; `percent`: maps `disagreement` and, with a gate, `share_PARTY`; `said`: a
    sentence about the shares, where there is a gate; `remarks`: what is not shown, and why.
    """

    answers: Mapping[str, np.ndarray]
    percent: Mapping[str, np.ndarray]
    properties: dict[str, Any]
    said: str = ""
    remarks: tuple[str, ...] = field(default=())


def find_case(given: str, ending: str) -> Case:
    """The case that a path means: a file of one of its channels, which is then the one that is shown; its name without
    channel and ending; or a folder that holds no other.

    Args:
        ending: of the model's files.

    Raises:
        StitchError: there is no such case, or the folder has several.
    """
    if os.path.isdir(given):
        cases = image_files(given, ending)
        if len(cases) != 1:
            first = next(iter(cases.values()), [os.path.join(given, f"CASE_0000{ending}")])[0]
            has = f"{len(cases)} cases" if cases else f"no file named CASE_0000{ending}, as nnU-Net expects"
            raise StitchError(f"{given} has {has}; give a file of the case to look at, e.g. -i {first}")
        name, files = next(iter(cases.items()))
        return Case(name, tuple(files), files[0])
    folder, wanted = os.path.split(given)
    cases = image_files(folder or os.curdir, ending) if os.path.isdir(folder or os.curdir) else {}
    for name, files in cases.items():
        names = [os.path.basename(f) for f in files]
        if wanted == name or wanted in names:
            return Case(name, tuple(files), files[names.index(wanted) if wanted in names else 0])
    if os.path.isfile(given):
        raise StitchError(f"{given} is no image of this model, whose files are named CASE_0000{ending}; convert or "
                          f"rename it")
    raise StitchError(f"no case {wanted} in {folder or os.curdir}; give a file of one of its channels, e.g. "
                      f"{os.path.join(folder, f'CASE_0000{ending}')}")


def parties_alone(predictor: StitchedPredictor) -> dict[str, StitchedPredictor | None]:
    """What answers as each party alone; None where the checkpoint holds only what its own setting needs."""
    found: dict[str, StitchedPredictor | None] = {}
    for party in predictor.uncompiled.parties:
        try:
            found[party] = predictor.answering_as(party)
        except StitchError:
            found[party] = None
    return found


def look_at(predictor: StitchedPredictor, alone: Mapping[str, StitchedPredictor | None],
            files: Sequence[str]) -> CaseLook:
    """Answers of every party and of the stitched model, as they would be predicted, with the maps.

    Args:
        predictor: in mode `stitched`.
        alone: its parties, from `parties_alone`.
        files: of the case's channels.

    Raises:
        StitchError: the files cannot be read, or their channels are not the model's.
    """
    from nnunetv2_stitch.inference import maps
    from nnunetv2_stitch.inference.shares import sentence
    data, properties = maps.preprocessed(predictor, files)
    stitched = maps.segmentation(predictor, data, properties)
    shares, said, remarks = {}, "", []
    if predictor.uncompiled.is_gated:
        said = sentence(predictor.party_names, predictor.case_shares[-1])
        shares = {f"{SHARE}{party}": m for party, m in maps.share_maps(predictor, data, properties).items()}
    answers, probabilities, percent = {}, [], {}
    for party, other in alone.items():
        if other is not None:
            answers[party], found = maps.segmentation_and_probabilities(other, data, properties)
            probabilities.append(found)
    if pruned := [party for party, other in alone.items() if other is None]:
        remarks.append(f"{' and '.join(pruned)} alone and the disagreement are not shown: this model was pruned to "
                       f"what its own setting needs; one trained with -output ensemble holds all of it")
    else:
        percent[DISAGREEMENT] = maps.disagreement(probabilities, predictor.label_manager.has_regions)
    return CaseLook({**answers, STITCHED: stitched}, {**percent, **shares}, properties, said, tuple(remarks))


def write_look(predictor: StitchedPredictor, case: Case, output: str,
               reference: str | None = None) -> tuple[dict[str, str], CaseLook]:
    """Look at a case and write `CASE_view.png`, and beside it `CASE_<what><ending>` for every answer and map, in the
    image's own geometry. All files are written or none.

    Args:
        reference: file of the true labels, drawn as an outline.

    Returns:
        What -> path, and what was written.

    Raises:
        StitchError: see `look_at`; or the reference is no segmentation of this image, by its shape or its place.
    """
    from nnunetv2_stitch.inference.images import read_images, require_channels_of
    reader = predictor.plans_manager.image_reader_writer_class()
    channels = len(read_images(case.files, reader))
    require_channels_of(case.name, case.files, channels, predictor.uncompiled.input_channels)
    channels, properties = reader.read_images((case.shown,))
    image, labels = picture(channels), Labels.from_json(predictor.dataset_json["labels"])
    truth = None if reference is None else _reference(reference, predictor, labels)
    if truth is not None:
        _require_of_image(*truth, channels.shape[1:], grid_of(properties), reference, case.shown)
    look = look_at(predictor, parties_alone(predictor), case.files)
    if reference is not None and not os.path.basename(reference).startswith(f"{case.name}."):
        said = f"The file of labels is called {os.path.basename(reference)} and the case {case.name}: Dice and " \
               f"outline mean nothing if it is of another case."
        look = replace(look, remarks=(*look.remarks, said))
    ending, written = predictor.dataset_json["file_ending"], {}
    os.makedirs(output, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp", dir=output) as temporary:
        for what, voxels in {**look.answers, **look.percent}.items():
            name = f"{case.name}_{what}{ending}"
            reader.write_seg(voxels, os.path.join(temporary, name), look.properties)
            written[what] = os.path.join(output, name)
        written = {"view": os.path.join(output, name := f"{case.name}_view.png"), **written}
        title = ", ".join([case.name, *(f"{party}: {called}" for party, called in predictor.party_names.items())])
        if reference is not None:
            title += f"; outline: {os.path.basename(reference)}"
        case_view(rows(image, look, None if truth is None else truth[0], labels), os.path.join(temporary, name),
                  value_names(labels), "\n".join(filter(None, [title, look.said])))
        for name in files_in(temporary):
            os.replace(os.path.join(temporary, name), os.path.join(output, name))
    maps = (f"{case.name}_{SHARE}", f"{case.name}_{DISAGREEMENT}")
    if old := [n for n in files_in(output, ending) if n.startswith(maps) and os.path.join(output, n) not in
               written.values()]:
        verb = "is" if len(old) == 1 else "are"
        said = f"{' and '.join(old)} in {output} lay there before and {verb} not of this look."
        look = replace(look, remarks=(*look.remarks, said))
    return written, look


def picture(channels: np.ndarray) -> np.ndarray:
    """What is shown of a file's channels `(C, z, y, x)`: the three of a photograph as colours `(z, y, x, 3)`, else the
    first, `(z, y, x)`."""
    is_photograph = len(channels) == 3 and channels.shape[1] == 1 and channels.min() >= 0 and channels.max() <= 255
    return np.moveaxis(channels, 0, -1) if is_photograph else channels[0]


def rows(image: np.ndarray, look: CaseLook, reference: np.ndarray | None, labels: Labels) -> list[Row]:
    """Rows of the figure: one for a 2d image, some slices for a volume."""
    spacing = look.properties["spacing"]
    axis = slice_axis(image.shape[:3], spacing)
    seen = [*look.answers.values(), *([] if reference is None else [reference])]
    plane = [float(s) for a, s in enumerate(spacing) if a != axis]
    titles = {what: (what if what == STITCHED else f"{what} alone") + (
        "" if reference is None else f"\nDice {mean_dice(reference, voxels, labels):.3f}")
        for what, voxels in look.answers.items()}
    found = []
    for index in slices_to_show(seen, axis, SLICES):
        def cut(voxels: np.ndarray, index=index) -> np.ndarray:
            return upright(voxels.take(index, axis), axis, look.properties)

        underneath = cut(image)
        panels = [Panel("image", underneath),
                  *(Panel(titles[what], underneath, cut(voxels)) for what, voxels in look.answers.items())]
        heat = {what: cut(voxels) for what, voxels in look.percent.items()}
        shares = [m for what, m in heat.items() if what.startswith(SHARE)]
        inside = np.any(shares, axis=0)  # outside nnU-Net's crop nobody has a share
        for what, m in heat.items():
            note = f"mean {m[inside].mean():.0f} %" if what.startswith(SHARE) and inside.any() else ""
            panels.append(Panel(what.replace(SHARE, "share of "), underneath, heat=m, note=note))
        found.append(Row("" if image.shape[axis] == 1 else f"{'zyx'[axis]} = {index}", panels,
                         None if reference is None else cut(reference), plane[0] / plane[1]))
    return found


def slices_to_show(segmentations: Sequence[np.ndarray], axis: int, count: int) -> list[int]:
    """At most `count` slices across an axis, in order: where segmentations differ most, then where most foreground is,
    else the middle one. They are apart by a part of what is worth a look, for neighbours show the same."""
    foreground = per_slice(np.any([s > 0 for s in segmentations], axis=0), axis)
    differing = per_slice(np.any([s != segmentations[0] for s in segmentations], axis=0), axis)
    score = differing + foreground / (1 + foreground.sum())
    worth = np.flatnonzero(score)
    if not len(worth):
        return [len(score) // 2]
    apart, found = max(1, (worth[-1] + 1 - worth[0]) // (2 * count)), []
    for index in np.argsort(-score, kind="stable").tolist():
        if score[index] and len(found) < count and all(abs(index - other) >= apart for other in found):
            found.append(index)
    return sorted(found)


def mean_dice(reference: np.ndarray, prediction: np.ndarray, labels: Labels) -> float:
    """Mean Dice over those labels or regions that are in either, as nnU-Net's; NaN where there is none."""
    from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn
    ignored = None if labels.ignore is None else reference == labels.ignore
    found = []
    for values in labels.regions.values():
        tp, fp, fn, _ = compute_tp_fp_fn_tn(np.isin(reference, values), np.isin(prediction, values), ignored)
        found += [2 * tp / (2 * tp + fp + fn)] if tp + fp + fn else []
    return float(np.mean(found)) if found else float("nan")


def _reference(path: str, predictor: StitchedPredictor, labels: Labels) -> tuple[np.ndarray, Grid]:
    """Labels `(z, y, x)` of a file, and where they lie."""
    if not os.path.isfile(path):
        raise StitchError(f"{path} does not exist; give the file of this case's labels with -l, or leave -l out")
    ending = next((e for e in file_endings() if path.lower().endswith(e)), os.path.splitext(path)[1])
    as_images = ending == predictor.dataset_json["file_ending"]  # then by their reader, which may turn them
    reader = predictor.plans_manager.image_reader_writer_class() if as_images else reader_for(ending, path)
    voxels, grid = read_segmentation(path, reader)
    if voxels.any() and not np.isin(voxels, [*labels.values, *([labels.ignore] if labels.ignore else [])]).any():
        raise StitchError(f"{path} holds none of the model's labels ({', '.join(map(str, sorted(labels.values)))}); "
                          f"give the file of this case's labels with -l, or leave -l out")
    return voxels, grid


def _require_of_image(voxels: np.ndarray, grid: Grid, shape: tuple[int, ...], place: Grid, path: str,
                      image_file: str) -> None:
    """Raises StitchError where labels `(z, y, x)` cannot be those of an image of this shape and place: they would be
    drawn over what they do not mean. Files that do not say where they lie are compared by shape alone."""
    said = f"{path} is of another image than {image_file}: "
    again = "; give the file of this case's labels with -l, or leave -l out"
    if voxels.shape != shape:
        raise StitchError(f"{said}shapes are {voxels.shape} and {shape} (z, y, x){again}")
    if grid.affine is not None and place.affine is not None and (apart := difference(shape, grid, place)):
        raise StitchError(f"{said}both have shape {shape} (z, y, x), and {apart}{again}")
