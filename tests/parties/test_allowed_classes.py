import sys

import pytest
from networks import spec

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties import allowed_classes
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes


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
    monkeypatch.setattr(allowed_classes, "_locate", lambda name: pytest.fail(f"looked up {name!r}"))
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


