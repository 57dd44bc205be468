import sys

import pytest
from networks import spec

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties import compatibility
from nnunetv2_stitch.parties.compatibility import (
    Difference,
    differences,
    require_allowed_classes,
    require_compatible,
)
from nnunetv2_stitch.parties.model_folder import read_model_folder


@pytest.fixture
def compare(make_model, edit):
    """`compare(plans=..., dataset=...)`: the differences of a partner whose files were altered so, as a dict."""
    folders = make_model("Dataset911_A"), make_model("Dataset912_B")

    def run(plans=None, dataset=None, both=None):
        for folder in folders if both else ():
            edit(folder / "plans.json", both)
        for name, change in (("plans.json", plans), ("dataset.json", dataset)):
            if change is not None:
                edit(folders[1] / name, change)
        found = differences(*(read_model_folder(str(f)) for f in folders))
        return {d.key: (d.host, d.partner) for d in found}
    return run


def in_2d(**changes):
    return lambda plans: plans["configurations"]["2d"].update(changes)


def test_alike(compare):
    assert compare() == {}


def test_what_does_not_matter(compare):
    def plans(p):
        p.update(image_reader_writer="NaturalImage2DIO", plans_name="other", dataset_name="Dataset999_Z")
        p["foreground_intensity_properties_per_channel"]["0"]["mean"] = 7.0
        p["configurations"]["2d"].update(patch_size=[64, 48], batch_size=9, spacing=[1.5001, 1.4999],
                                         architecture=spec(kind="ResidualEncoderUNet", width=4))
    assert compare(plans, lambda d: d.update(file_ending=".png", numTraining=99, name="B")) == {}


@pytest.mark.parametrize("key, change, host, partner", [
    ("spacing", in_2d(spacing=[1.0, 1.5]), [1.5, 1.5], [1.0, 1.5]),
    ("spacing", in_2d(spacing=[1.51, 1.5]), [1.5, 1.5], [1.51, 1.5]),
    ("normalization_schemes", in_2d(normalization_schemes=["NoNormalization"]), ["ZScoreNormalization"],
     ["NoNormalization"]),
    ("use_mask_for_norm", in_2d(use_mask_for_norm=[True]), [False], [True]),
    ("transpose_forward", lambda p: p.update(transpose_forward=[2, 0, 1]), [0, 1, 2], [2, 0, 1]),
    ("preprocessor", in_2d(preprocessor_name="Mine"), "DefaultPreprocessor", "Mine"),
])
def test_plans_that_differ(compare, key, change, host, partner):
    assert compare(change) == {key: (host, partner)}


@pytest.mark.parametrize("key, change, host, partner", [
    ("channels", {"channel_names": {"0": "T2"}}, ["MRI"], ["T2"]),
    ("channels", {"channel_names": {"0": "MRI", "1": "T2"}}, ["MRI"], ["MRI", "T2"]),
    ("labels", {"labels": {"background": 0, "a": 2, "b": 1}}, ["background=0", "a=1", "b=2"],
     ["background=0", "b=1", "a=2"]),
    ("labels", {"labels": {"background": 0, "a": 1}}, ["background=0", "a=1", "b=2"], ["background=0", "a=1"]),
    ("ignore label", {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}, None, 3),
])
def test_dataset_json_that_differs(compare, key, change, host, partner):
    assert compare(dataset=lambda d: d.update(change)) == {key: (host, partner)}


def test_order_in_the_file_matters_for_regions_only(compare):
    assert compare(dataset=lambda d: d.update(labels={"b": 2, "background": 0, "a": 1})) == {}
    regions = {"labels": {"background": 0, "whole": [1, 2], "b": [2]}, "regions_class_order": [1, 2]}
    found = compare(dataset=lambda d: d.update(regions))
    assert found["regions_class_order"] == (None, [1, 2])
    assert found["labels"][1] == ["background=0", "whole=[1, 2]", "b=2"]


def test_order_of_regions(compare, make_model, edit, results):
    regions = {"labels": {"background": 0, "whole": [1, 2], "b": [2]}, "regions_class_order": [1, 2]}
    swapped = {**regions, "labels": {"background": 0, "b": 2, "whole": [1, 2]}}
    folders = [results / name / "nnUNetTrainer__nnUNetPlans__2d" for name in ("Dataset911_A", "Dataset912_B")]
    for folder, change in zip(folders, (regions, swapped)):
        edit(folder / "dataset.json", lambda d, change=change: d.update(change))
    found = differences(*(read_model_folder(str(f)) for f in folders))
    assert [d.key for d in found] == ["labels"]


def test_intensities_matter_for_ct_only(compare):
    ct = in_2d(normalization_schemes=["CTNormalization"])
    key = "intensities of channel 0 (CTNormalization)"
    assert compare(both=ct) == {}

    def slightly(p):
        p["foreground_intensity_properties_per_channel"]["0"].update(mean=100.01, median=3.0)
    assert compare(slightly) == {}
    found = compare(lambda p: p["foreground_intensity_properties_per_channel"]["0"].update(std=30.0))
    assert list(found) == [key] and found[key][1]["std"] == 30.0


def test_dimension(make_model):
    host = read_model_folder(str(make_model("Dataset911_A")))
    partner = read_model_folder(str(make_model("Dataset912_B", "nnUNetTrainer__nnUNetPlans__3d_fullres")))
    found = differences(host, partner)
    assert Difference("dimension", "2d", "3d") in found and Difference("configuration", "2d", "3d_fullres") in found


def test_message_is_one_line_side_by_side(make_model, edit):
    host = read_model_folder(str(make_model("Dataset911_A")))
    require_compatible(host, host)
    folder = make_model("Dataset912_B")
    edit(folder / "plans.json", in_2d(spacing=[1.0, 1.0], normalization_schemes=["CTNormalization"]))
    with pytest.raises(StitchError) as error:
        require_compatible(host, read_model_folder(str(folder)))
    text = str(error.value)
    assert "spacing: host [1.5, 1.5], partner [1, 1]; normalization_schemes: host [ZScoreNormalization], " \
           "partner [CTNormalization]" in text
    assert "Dataset911_A" in text and "Dataset912_B" in text and "nnUNetv2_move_plans_between_datasets" in text
    assert "\n" not in text


def test_worlds_parties_are_compatible(world2d):
    models = [read_model_folder(str(world2d.model(p))) for p in (world2d.host, world2d.partner)]
    assert differences(*models) == []
    for model in models:
        require_allowed_classes(model.network_spec)


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"])
def test_stock_networks_are_allowed(kind):
    require_allowed_classes(spec(kind=kind))
    moved = {**spec(), "network_class_name": f"dynamic_network_architectures.architectures.old_name.{kind}"}
    require_allowed_classes(moved)  # nnU-Net finds networks that have moved, and so do we


ARCHITECTURES = "dynamic_network_architectures.architectures."


@pytest.mark.parametrize("name", [
    "os.system", "builtins.eval", "subprocess.Popen", "torch.nn.Conv2d", "torch.hub.load", "", None, 3, ["a"],
    "dynamic_network_architectures.architectures", ARCHITECTURES, ARCHITECTURES + "unet.", ARCHITECTURES + "unet..X",
    ARCHITECTURES + "unet._private.X", ARCHITECTURES + "unet.__class__", ARCHITECTURES + "unet.PlainConvUNet\n",
    " " + ARCHITECTURES + "unet.PlainConvUNet", ARCHITECTURES + "unet.PlainConvUNet()", ARCHITECTURES + "unet/../x.Y",
    ARCHITECTURES + "unet", ARCHITECTURES + "unet.nn.Conv2d", ARCHITECTURES + "unet.torch.load",
    ARCHITECTURES + "unet.NoSuchNetwork", ARCHITECTURES + "unet.PlainConvUNet.forward",
    "nnunetv2_stitch.stitching.network.StitchedEnsemble", "dynamic_network_architectures_architectures.unet.X",
])
def test_other_network_classes_are_refused(name):
    with pytest.raises(StitchError, match="network_class_name.*is not allowed") as error:
        require_allowed_classes({**spec(), "network_class_name": name})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [
    "os.system", "torch.load", "torch.nn", "torch.nn.", "torch.nnx.Conv2d", "torch.nn.functional.relu",
    "torch.nn.parallel.distributed.os.system", "torch.nn.modules.utils.collections.OrderedDict",
    "torch.nn.__loader__.load_module", "torch.nn.init._no_grad_uniform_", 7, ["torch.nn.Conv2d"],
    "dynamic_network_architectures.building_blocks.helper.convert_dim_to_conv_op",
])
def test_other_operations_are_refused(value):
    network = spec()
    network["arch_kwargs"]["conv_op"] = value
    with pytest.raises(StitchError, match="conv_op.*is not allowed"):
        require_allowed_classes(network)


def test_building_blocks_are_allowed():
    network = spec(kind="ResidualEncoderUNet")
    network["arch_kwargs"]["block"] = "dynamic_network_architectures.building_blocks.residual.BottleneckD"
    network["_kw_requires_import"].append("block")
    require_allowed_classes(network)


@pytest.mark.parametrize("name", ["os.system", "unet.PlainConvUNet\n", "unet._private.X", "unet.__class__", "unet.X()"])
def test_a_bad_name_is_never_looked_up(name, monkeypatch):
    monkeypatch.setattr(compatibility, "_locate", lambda name: pytest.fail(f"looked up {name!r}"))
    with pytest.raises(StitchError, match="is not allowed"):
        require_allowed_classes({**spec(), "network_class_name": ARCHITECTURES * (name != "os.system") + name})


def test_nothing_is_imported_before_all_names_are_allowed(tmp_path, monkeypatch):
    (tmp_path / "evil_parent.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for change in ({"network_class_name": "evil_parent.Network"}, {"conv_op": "evil_parent.Conv"}):
        network = spec()
        (network if "network_class_name" in change else network["arch_kwargs"]).update(change)
        with pytest.raises(StitchError):
            require_allowed_classes(network)
    assert "evil_parent" not in sys.modules and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", [
    {"arch_kwargs": None}, {"arch_kwargs": []}, {"_kw_requires_import": None}, {"_kw_requires_import": "conv_op"},
    {"_kw_requires_import": ["no_such_argument"]}, {"_kw_requires_import": [["conv_op"]]},
])
def test_malformed_descriptions(change):
    with pytest.raises(StitchError, match="copy *plans.json again"):
        require_allowed_classes({**spec(), **change})
    with pytest.raises(StitchError):
        require_allowed_classes({})


