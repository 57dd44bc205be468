from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread

from nnunetv2_stitch.figures import Panel, Row, case_view, dice_by_party, dice_over_position, matches, overlays
from nnunetv2_stitch.figures.style import DPI, GREEN, SKY

MODELS = ("A alone", "B alone", "plain ensemble", "stitched")


def rgb(path):
    return (imread(path)[..., :3] * 255).round().astype(np.uint8)


def has_colour(path, colour):
    """Whether a `#RRGGBB` is painted anywhere."""
    wanted = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(rgb(path).astype(int) - wanted).max(-1) <= 2).any())


def sweep(fold, positions=range(6)):
    positions = list(positions)
    return {"fold": fold, "positions": positions, "names": [f"encoder.stages.{p}" for p in positions],
            "ensemble": [0.8 + 0.01 * p for p in positions], "host_head": [0.7] * len(positions),
            "parties": ["partner"] * len(positions), "baselines": {"host": 0.85, "partner": 0.6, "ensemble": 0.8}}


def test_dice_by_party(tmp_path):
    rows = [{"party": party, "model": model, "dice": 0.8, "cases": [0.7, 0.9, float("nan")]}
            for party in ("A", "B") for model in MODELS]
    path = str(tmp_path / "dice.png")
    assert dice_by_party(rows, path) == path
    assert rgb(path).shape == (round(4.2 * DPI), round((1.8 + 2.9 * 2) * DPI), 3)
    for colour in ("#0072B2", "#E69F00", "#7F7F7F", "#009E73"):
        assert has_colour(path, colour)


def test_dice_by_party_needs_no_cases_and_knows_any_model(tmp_path):
    path = dice_by_party([{"party": "A", "model": "something else", "dice": 0.31}], str(tmp_path / "dice.png"))
    assert rgb(path).std() > 0


@pytest.mark.parametrize("folds", [1, 3])
def test_dice_over_position_marks_the_choice(tmp_path, folds):
    path = dice_over_position([sweep(f) for f in range(folds)], [4], str(tmp_path / "positions.png"))
    assert has_colour(path, "#D55E00")
    without = dice_over_position([sweep(f) for f in range(folds)], [], str(tmp_path / "none.png"))
    assert not has_colour(without, "#D55E00")


def test_dice_over_position_has_a_line_per_partner(tmp_path):
    baselines = {**sweep(0)["baselines"], "partner2": 0.7}
    star = {**sweep(0), "parties": ["partner", "partner2"] * 3, "baselines": baselines}
    path = dice_over_position([star, {**star, "fold": 1}], [1, 4], str(tmp_path / "star.png"))
    for colour in ("#D55E00", GREEN, SKY):
        assert has_colour(path, colour)


def test_dice_over_position_takes_what_all_folds_have(tmp_path):
    path = dice_over_position([sweep(0), sweep(1, [1, 3, 5])], [2], str(tmp_path / "positions.png"))
    assert not has_colour(path, "#D55E00")  # position 2 is not one of all folds'


def test_matches(tmp_path):
    nodes = [SimpleNamespace(progress=i / 6, stride=(2. ** min(i, 6 - i),) * 2, name=f"n{i}") for i in range(7)]
    pairs = {i - 1: (i, i) for i in range(1, 6)}
    plain = matches(nodes, nodes, pairs, str(tmp_path / "matches.png"))
    assert rgb(plain).shape == (round(5.6 * DPI), 10 * DPI, 3)
    assert has_colour(plain, "#0072B2") and has_colour(plain, "#E69F00") and not has_colour(plain, "#D55E00")
    assert has_colour(matches(nodes, nodes, pairs, str(tmp_path / "chosen.png"), chosen=2), "#D55E00")


def test_overlays_paint_only_where_the_mask_is(tmp_path):
    image = np.linspace(0, 1, 64).reshape(8, 8)
    mask = np.zeros((8, 8), int)
    mask[2:6, 2:6] = 2
    panels = [{"title": "case", "image": image, "masks": {"reference": mask, "A alone": 0 * mask},
               "dice": {"A alone": 0.0}}]
    path = overlays(panels, str(tmp_path / "overlays.png"), {"cortex": 1, "inner": 2})
    pixels = rgb(path).astype(int)
    width = pixels.shape[1] // 3
    blueness = pixels[:round(pixels.shape[0] * 0.85), :, 2] - pixels[:round(pixels.shape[0] * 0.85), :, 0]
    assert (blueness[:, width:2 * width] > 60).any()
    assert not (blueness[:, 2 * width:] > 60).any()


def test_a_case_is_drawn_with_labels_percent_and_reference_each_where_it_is(tmp_path):
    """A panel alone is grey; labels, heat and outline change the panels they are given to, and colours stay colours."""
    image, mask, heat = np.linspace(0, 1, 64).reshape(8, 8), np.zeros((8, 8), int), np.zeros((8, 8))
    mask[2:6, 2:6], heat[2:6, 2:6] = 1, 100

    def panels(reference=None, **given):
        row = Row("case", [Panel("image", image), Panel("other", image, **given)], reference)
        pixels = rgb(case_view([row], str(tmp_path / "view.png"), {"cortex": 1}))
        half = pixels[round(0.2 * len(pixels)):round(0.6 * len(pixels))].astype(int)
        return np.array_split(half, 2, axis=1)

    def colours(pixels):
        return int((np.ptp(pixels, axis=-1) > 60).sum())
    plain = panels()
    assert [colours(p) for p in plain] == [0, 0]
    for given in ({"labels": mask}, {"heat": heat}):
        left, right = panels(**given)
        assert colours(left) == 0 < colours(right) < 0.5 * right[..., 0].size
    outlined = panels(mask)
    assert all((a.shape == b.shape) and 0 < (a != b).any(-1).mean() < 0.2 for a, b in zip(plain, outlined))
    # The outline is white in the legend too, on dark, as the images are.
    row = Row("case", [Panel("image", 0 * image)], mask)
    dark = [(rgb(case_view([r], str(tmp_path / "legend.png"), {"cortex": 1})) == 51).all(-1).sum()
            for r in (row, replace(row, reference=None))]
    assert dark[1] < 20 < 100 < dark[0]
    case_view([Row("case", [Panel("image", np.stack([image, 0 * image, 0 * image], -1))])],
              path := str(tmp_path / "colour.png"), {})
    assert has_colour(path, "#FF0000")


def test_names_of_cases_parties_and_labels_are_drawn_as_they_are(tmp_path):
    """The kind: a name that matplotlib takes for a formula, here one that is none."""
    panels = [Panel("$\\host$", np.eye(4), np.eye(4, dtype=int))]
    path = case_view([Row("$case_$", panels)], str(tmp_path / "view.png"), {"$a_$": 1}, "$B^$")
    assert rgb(path).std() > 0


def test_figures_leave_no_temporary_files(tmp_path):
    dice_over_position([sweep(0)], [1], str(tmp_path / "positions.png"))
    assert [p.name for p in tmp_path.iterdir()] == ["positions.png"]


def test_figures_look_the_same_whatever_style_is_set(tmp_path):
    """nnU-Net's logger leaves seaborn's style with huge fonts behind."""
    import matplotlib
    before = dice_over_position([sweep(0)], [1], str(tmp_path / "before.png"))
    with matplotlib.rc_context({"font.size": 40, "axes.facecolor": "red", "axes.labelsize": 40}):
        after = dice_over_position([sweep(0)], [1], str(tmp_path / "after.png"))
        assert matplotlib.rcParams["font.size"] == 40
    np.testing.assert_array_equal(rgb(before), rgb(after))
