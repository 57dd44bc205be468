"""What is said of two parties' differences: same, bridged, approximate, differs without harm, blocks."""

import json

import pytest
from networks import spec

from nnunetv2_stitch.bridging.bridge import Bridge, Intensity
from nnunetv2_stitch.bridging.names import NameMaps
from nnunetv2_stitch.bridging.report import compare_parties, require_bridge
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.model_folder import read_model_folder


@pytest.fixture
def compare(make_model, edit):
    """`compare(plans=..., dataset=..., both=..., host=...)`: report on a partner whose files were altered so."""
    folders = make_model("Dataset911_A"), make_model("Dataset912_B")

    def run(plans=None, dataset=None, both=None, host=None, maps=NameMaps({}, {})):
        changes = [(0, "plans.json", both), (1, "plans.json", both), (1, "plans.json", plans),
                   (1, "dataset.json", dataset), (0, "dataset.json", host)]
        for index, name, change in changes:
            if change is not None:
                edit(folders[index] / name, change)
        return compare_parties(*(read_model_folder(str(f)) for f in folders), maps)
    return run


def kinds(report, *left_out):
    return {line.name: line.kind for line in report.lines if line.kind not in ("same", *left_out)}


def in_2d(**changes):
    return lambda plans: plans["configurations"]["2d"].update(changes)


def test_alike(compare):
    report = compare()
    assert kinds(report) == {} and report.bridge.is_identity
    assert Bridge.from_json(json.loads(json.dumps(report.bridge.to_json()))) == report.bridge


def test_what_does_not_matter(compare):
    def plans(p):
        p.update(image_reader_writer="NaturalImage2DIO", plans_name="other", dataset_name="Dataset999_Z")
        p["foreground_intensity_properties_per_channel"]["0"]["mean"] = 7.0
        p["configurations"]["2d"].update(patch_size=[64, 48], batch_size=9, spacing=[1.5001, 1.4999],
                                         architecture=spec(kind="ResidualEncoderUNet", width=4))
    report = compare(plans, lambda d: d.update(file_ending=".png", numTraining=99, name="B"))
    assert kinds(report, "differs") == {} and report.bridge.is_identity


@pytest.mark.parametrize("change, expected", [
    (in_2d(spacing=[1.0, 1.5]), {"spacing": "approximate", "size is a multiple of": "bridged"}),
    (in_2d(normalization_schemes=["NoNormalization"]), {"normalisation of MRI": "approximate"}),
    (in_2d(use_mask_for_norm=[True]), {"normalisation of MRI": "approximate"}),
    (in_2d(normalization_schemes=["Mine"]), {"normalisation of MRI": "blocks"}),
    (lambda p: p.update(transpose_forward=[0, 2, 1]), {"order of axes": "bridged"}),
    (lambda p: p.update(transpose_forward=[2, 0, 1]), {"slices along axis": "blocks"}),
    (in_2d(preprocessor_name="Mine"), {"preprocessor": "blocks"}),
])
def test_plans_that_differ(compare, change, expected):
    report = compare(change)
    assert kinds(report, "differs") == expected
    assert (report.bridge is None) == ("blocks" in expected.values())


@pytest.mark.parametrize("change, expected, outputs", [
    ({"channel_names": {"0": "T2"}}, {"channels": "blocks"}, None),
    ({"labels": {"background": 0, "a": 2, "b": 1}}, {"labels": "bridged"}, ((0,), (2,), (1,))),
    ({"labels": {"background": 0, "A": 1, "B ": 2}}, {}, ((0,), (1,), (2,))),
    ({"labels": {"background": 0, "a": 1}}, {"labels": "bridged"}, ((0,), (1,), ())),
    ({"labels": {"background": 0, "c": 1, "a": 2}}, {"labels": "bridged"}, ((0, 1), (2,), ())),
    ({"labels": {"background": 0, "c": 1}}, {"labels": "blocks"}, None),
    ({"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}, {}, ((0,), (1,), (2,))),
    ({"labels": {"background": 0, "whole": [1, 2], "b": [2]}, "regions_class_order": [1, 2]},
     {"trained on": "blocks"}, None),
])
def test_dataset_json_that_differs(compare, change, expected, outputs):
    report = compare(dataset=lambda d: d.update(change))
    assert kinds(report, "differs") == expected
    assert outputs == (None if report.bridge is None else report.bridge.outputs)


def test_regions(compare):
    def whole_first(d):
        d.update(labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])

    def core_first(d):
        d.update(labels={"background": 0, "core": 2, "whole": [1, 2], "more": 3}, regions_class_order=[2, 1, 3])
    report = compare(dataset=core_first, host=whole_first)
    assert report.bridge.outputs == ((1,), (0,)) and kinds(report, "differs") == {"labels": "bridged"}


def test_channels_in_another_order(compare):
    def three(order):
        return {"channel_names": {str(i): n for i, n in enumerate(order)}}
    report = compare(both=in_2d(normalization_schemes=["ZScoreNormalization"] * 3, use_mask_for_norm=[False] * 3),
                     host=lambda d: d.update(three(["T1", "T2", "FLAIR"])),
                     dataset=lambda d: d.update(three(["flair", "T1", "T2"])))
    assert report.bridge.channels == (2, 0, 1) and kinds(report) == {"channels": "bridged"}


def test_synonyms(compare):
    def names(d):
        d.update(labels={"background": 0, "tumour": 1, "cyst": 2, "dirt": 3}, channel_names={"0": "T1"})
    maps = NameMaps({"Tumour": "a", "cyst": "a", "dirt": None}, {"T1": "MRI"})
    report = compare(dataset=names, maps=maps)
    assert report.bridge.outputs == ((0, 3), (1, 2), ())
    assert compare(maps=NameMaps({"background": "a"}, {})).bridge is None
    with pytest.raises(StitchError, match="partner has no label 'bone'"):
        compare(maps=NameMaps({"bone": "a"}, {}))
    with pytest.raises(StitchError, match="host has no label 'bone'"):
        compare(maps=NameMaps({"cyst": "bone"}, {}))


def test_ct_constants(compare):
    ct = in_2d(normalization_schemes=["CTNormalization"])
    assert kinds(compare(both=ct)) == {}
    changed = {"mean": 50.0, "std": 40.0, "percentile_00_5": 20.0, "percentile_99_5": 150.0}
    report = compare(lambda p: p["foreground_intensity_properties_per_channel"]["0"].update(changed))
    # The host's value h stands for 20 h + 100, which the partner sees as (20 h + 50) / 40, clipped to its own range.
    assert report.bridge.intensities == (Intensity(0.5, 1.25, -0.75, 2.5),)
    assert kinds(report) == {"normalisation of MRI": "bridged"}


def test_no_instance_norm_no_guess(compare):
    def batch_norm(p):
        p["configurations"]["2d"]["architecture"]["arch_kwargs"]["norm_op"] = "torch.nn.BatchNorm2d"
        p["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization"]
    assert kinds(compare(batch_norm), "differs") == {"normalisation of MRI": "blocks"}


def test_what_blocks_is_said_in_one_line(make_model):
    host = read_model_folder(str(make_model("Dataset911_A")))
    assert require_bridge(host, host).bridge.is_identity
    other = read_model_folder(str(make_model("Dataset912_B", "nnUNetTrainer__nnUNetPlans__3d_fullres")))
    with pytest.raises(StitchError) as error:
        require_bridge(host, other)
    text = str(error.value)
    assert "dimension: host 2d, partner 3d" in text and "nnUNetv2_stitch_info" in text and "\n" not in text


def test_worlds_parties_are_compatible(world2d):
    models = [read_model_folder(str(world2d.model(p))) for p in (world2d.host, world2d.partner)]
    assert compare_parties(*models).bridge.is_identity


@pytest.mark.parametrize("change", [
    {"channels": [0, 1]}, {"axes": [0, 0]}, {"ratio": [0.0, 1.0]}, {"ratio": None}, {"multiple": [0, 1]},
    {"outputs": [[9]]}, {"intensities": [{"power": 2}]}, {"intensities": [{"per_patch": "rm"}]},
])
def test_malformed_bridges_are_refused(compare, change):
    value = compare(in_2d(spacing=[1.0, 1.0])).bridge.to_json()
    assert Bridge.from_json(value).changes_grid
    with pytest.raises(StitchError):
        Bridge.from_json({**value, **change})
