"""The kind: what a score needs in memory is bounded by what is free, and the score is that of nnU-Net's own prediction.

Rows of a position sweep are counted in bands along the image, some rows at a time.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import build, ensemble, spec
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_stitch.environment import _left_of_group, free_memory
from nnunetv2_stitch.fitting.closed_form import DirectMatching
from nnunetv2_stitch.fitting.live_bytes import LiveBytes
from nnunetv2_stitch.pipeline.memory import sweep_need
from nnunetv2_stitch.selection import bands
from nnunetv2_stitch.selection.dice import counts_by_label
from nnunetv2_stitch.selection.sweep import PositionSweep
from nnunetv2_stitch.stitching.setting import Setting

LABELS = {"background": 0, "a": 1, "b": 2, "ignore": 3}
REGIONS = {"background": 0, "all": [1, 2], "middle": 1, "b": 2}
POSITIONS = [1, 9]


def sweeper(dim: int, patch, batch: int = 1, regions: bool = False) -> PositionSweep:
    specs = spec(dim=dim, stages=2, convs=1), spec(dim=dim, stages=2, convs=1, width=4)
    net = ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)], regions=regions)
    matching = DirectMatching(net)
    matching.update(torch.randn(2, 1, *[16] * dim, generator=torch.Generator().manual_seed(3)))
    matching.solve()
    labels = LabelManager(REGIONS, [1, 2, 2]) if regions else LabelManager(LABELS, None)
    plans = SimpleNamespace(get_label_manager=lambda dataset_json: labels)
    configuration = SimpleNamespace(patch_size=patch, batch_size=batch)
    return PositionSweep(net, plans, configuration, {}, torch.device("cpu"), POSITIONS)


def case(shape, most: int = 3):
    random = np.random.default_rng(0)
    return random.normal(size=(1, *shape)).astype(np.float32), random.integers(0, most + 1, (1, *shape))


def stock(sweep: PositionSweep, data: np.ndarray, setting: Setting) -> np.ndarray:
    """nnU-Net's own segmentation of the whole image."""
    sweep.network.apply_setting(setting)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.configuration_manager, predictor.label_manager = sweep.banded.tiler.configuration_manager, \
        sweep.label_manager
    predictor.network = sweep.network
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(data)).float()
    return np.asarray(sweep.label_manager.convert_logits_to_segmentation(logits))


@pytest.fixture
def count(monkeypatch):
    """Counts of some rows, with room for so many of them."""
    def with_room(sweep, data, reference, rows, room):
        each = []
        monkeypatch.setattr(bands, "room_for_sums", lambda: (room + 1) * each[0])
        measure = bands.bytes_per_answer
        monkeypatch.setattr(bands, "bytes_per_answer", lambda *a: each.append(measure(*a)) or each[-1])
        found = sweep.banded.count(data, reference, rows, sweep._answers)
        monkeypatch.undo()
        return found
    return with_room


@pytest.mark.parametrize("dim, shape, patch, regions", [
    (2, (5, 21, 17), (8, 12), False), (2, (1, 6, 30), (8, 8), True), (3, (19, 9, 12), (8, 8, 8), False),
    (3, (5, 12, 9), (8, 8, 8), True)])
def test_counts_in_bands_are_those_of_stock_prediction_of_the_whole_image(dim, shape, patch, regions, count):
    """To the voxel where the network is asked alike, for an image of any shape and whatever fits into memory."""
    sweep = sweeper(dim, patch, regions=regions)
    data, reference = case(shape, 2 if regions else 3)
    rows = [*sweep.rows[:-1]]
    whole = count(sweep, data, reference, rows, len(rows))
    assert whole.keys() == set(rows)
    for room in (1, 4):
        for row, found in count(sweep, data, reference, rows, room).items():
            np.testing.assert_array_equal(found, whole[row], f"{row} with room for {room}")
    settings = {"host": Setting(output="host"), "partner": Setting(output="partner"), "ensemble": Setting(),
                **{f"{output.split('@')[0]}@{p}": Setting.average_at(p, output=output.split("@")[0])
                   for p in POSITIONS for output in ("host", "ensemble")}}
    for row, setting in settings.items():
        wanted = counts_by_label(sweep.label_manager, stock(sweep, data, setting), reference[0])
        # Averaged maps are computed in another way, which tells at ties of half precision.
        allowed = 0 if "@" not in row else 0.005 * reference.size
        assert np.abs(whole[row] - wanted).max() <= allowed, row
    assert len({whole[row].tobytes() for row in rows}) > 3


@pytest.mark.parametrize("dim, shape, patch, batch, width", [
    (2, (9, 16, 16), (16, 16), 4, 4), (2, (1, 40, 16), (16, 16), 4, 1), (3, (40, 16, 16), (16, 16, 16), 1, 16),
    (3, (16, 40, 40), (16, 16, 16), 2, 16)])
def test_a_band_is_a_patch_thick(dim, shape, patch, batch, width):
    assert sweeper(dim, patch, batch).banded.bands(shape).width == width


def test_memory_grows_with_the_room_and_not_with_the_rows_or_the_length_of_the_image(count, monkeypatch):
    monkeypatch.setattr(bands, "PIECE", 1000)
    sweep = sweeper(3, (8, 16, 16))
    rows = sweep.rows[:-1]
    with torch.inference_mode(), LiveBytes() as live:
        list(sweep._answers(torch.zeros(1, 1, 8, 16, 16), rows))
    network, peaks = live.peak, {}
    for length in (24, 48):
        shape = length, 16, 16
        data, reference = case(shape)
        each = bands.bytes_per_answer(sweep.banded.bands(shape), 3, shape)
        for room in (1, len(rows)):
            monkeypatch.setattr(bands, "PIECE", 1000)
            with LiveBytes() as live:
                count(sweep, data, reference, rows, room)
            peaks[length, room] = live.peak
            small = 2 * data.nbytes + 2**16  # the image itself, weights, and what a piece takes
            assert live.peak <= network + (room + 2) * each + small
    assert peaks[48, 1] < peaks[48, len(rows)]
    whole_maps = 2 * 3 * 48 * 16 * 16 * len(rows)
    assert peaks[48, len(rows)] - peaks[48, 1] < whole_maps / 4


def test_an_answer_that_is_not_finite_counts_as_wrong():
    """The kind: no number is chosen by that is not a number. A network that gives NaN somewhere has a Dice of 0."""
    sweep = sweeper(2, (8, 8))
    data, reference = case((2, 12, 12), 2)
    reference[reference == 2] = 0  # so that no Dice of label b is known but by what is predicted
    with torch.no_grad():
        sweep.network.switch(POSITIONS[0], "host").stitch.weight.fill_(float("nan"))
    dice = dict(zip(sweep.rows, sweep.score_case(data, reference)))
    assert dice[f"host@{POSITIONS[0]}"][0] == dice[f"ensemble@{POSITIONS[0]}"][0] == 0
    assert dice["host"][0] > 0 and dice[f"host@{POSITIONS[1]}"][0] > 0
    assert dice["reference"][0] == 1 and np.isnan(dice["reference"][1])


@pytest.mark.parametrize("dim, median, patch, shape", [
    (2, (20.0, 16.0), (8, 8), (2, 20, 16)), (3, (40.0, 6.0, 20.0), (8, 8, 8), (40, 8, 20))])
def test_what_a_dry_run_says_is_what_a_sweep_of_a_median_case_takes(dim, median, patch, shape):
    sweep = sweeper(dim, patch, batch=2)
    need = sweep_need({"patch_size": patch, "batch_size": 2, "median_image_size_in_voxels": median}, sweep.network)
    assert need.each == bands.bytes_per_answer(sweep.banded.bands(shape), 3, shape)
    assert need.answers == 3 + 3 * len(sweep.network.positions) and need.room > 0


def test_the_limit_of_a_container_counts_and_files_that_are_cached_make_room(tmp_path):
    for folder, limit, used in ((".", "max", 900), ("job", "1000", 700), ("job/step", "max", 600)):
        inside = tmp_path / folder
        inside.mkdir(exist_ok=True)
        (inside / "memory.max").write_text(f"{limit}\n")
        (inside / "memory.current").write_text(f"{used}\n")
        (inside / "memory.stat").write_text("anon 500\ninactive_file 50\n")
    assert _left_of_group(str(tmp_path), "/job/step", "memory.max", "memory.current", "inactive_file") == [350]
    assert 0 < free_memory() < 2**50
