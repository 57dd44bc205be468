"""Kind: every tensor of a checkpoint is used, or known to be a duplicate, and the network is the one that was trained,
or the model is refused, on every path into the package."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import world as worlds
from exchange.test_real_models import predict
from stitched_model import assert_equal_voxels, environment, tree

from nnunetv2_stitch.entrypoints import (
    adapt_party,
    compare_stitched,
    export_party,
    merge_party,
    stitch_info,
    train_party,
    train_stitch,
)
from nnunetv2_stitch.errors import StitchError

pytestmark = pytest.mark.slow

COMMANDS = {
    "train_stitch": (train_stitch, "801 -m_b {model} -f 0 -device cpu"),
    "train_stitch of a host": (train_stitch, "802 -tr_b nnUNetTrainerTiny -m_a {model} -f 0 -device cpu"),
    "train_stitch --dry_run": (train_stitch, "801 -m_b {model} -f 0 --dry_run"),
    "stitch_info": (stitch_info, "801 -m_b {model} -f 0"),
    "compare_stitched": (compare_stitched, "801 -m_b {model} -f 0 -o {out} -device cpu"),
    "adapt_party": (adapt_party, "801 -m_b {model} -f 0 -device cpu"),
    "merge_party": (merge_party, "-m {model} {other} -d 801 -c 2d -f 0 -o_p nnUNetMergedPlans -device cpu"),
    "train_party": (train_party, "-m {model} -d 801 -f 0 -device cpu"),
    "export_party": (export_party, "-m {model} -f 0 -o {out}/party.zip"),
}


@pytest.fixture(scope="module")
def batch_norm(world2d, tmp_path_factory):
    """A copy of the world in which stock nnU-Net has trained the partner's network with nnUNetTrainerBN, too."""
    from nnunetv2_stitch.training.stock import train_network
    world = worlds.World(Path(shutil.copytree(world2d.root, tmp_path_factory.mktemp("bn") / "world")), 2)
    with environment(world.env), worlds.thread_pools(), contextlib.redirect_stdout(io.StringIO()):
        train_network(world.partner.dataset, "2d", 0, "nnUNetTrainerBN", "nnUNetPlans", torch.device("cpu"), epochs=1,
                      iterations=2)
    return world


@pytest.fixture
def changed_network(batch_norm):
    return batch_norm.model(batch_norm.partner).with_name("nnUNetTrainerBN__nnUNetPlans__2d")


def rename(model: Path, trainer: str, folder: Path) -> Path:
    """A copy of a model folder that says to be of another trainer, as its checkpoints do."""
    copy = folder / f"{trainer}__nnUNetPlans__2d"
    shutil.copytree(model, copy)
    for path in copy.rglob("*.pth"):
        checkpoint = torch.load(path, weights_only=False)
        torch.save({**checkpoint, "trainer_name": trainer}, path)
    return copy


def refusal(command: str, model: Path, world, out: Path) -> str:
    """The one line that a command says; nothing is written."""
    module, line = COMMANDS[command]
    arguments = line.format(model=model, other=world.model(world.partner), out=out).split()
    before = tree(world.root), tree(out)
    with pytest.raises(StitchError) as caught, contextlib.redirect_stdout(io.StringIO()):
        module.main(module.build_parser().parse_args(arguments))
    assert (tree(world.root), tree(out)) == before
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_network_that_the_plans_do_not_describe(command, batch_norm, changed_network, nnunet_env, tmp_path):
    """By the trainer at hand, and by tensors that nothing would use where it is not installed."""
    world = nnunet_env(batch_norm)
    assert "nnUNetTrainerBN builds another network" in refusal(command, changed_network, world, tmp_path)
    (tmp_path / "b").mkdir()
    elsewhere = rename(changed_network, "nnUNetTrainerOfTheirs", tmp_path / "b")
    said = refusal(command, elsewhere, world, tmp_path)
    assert "norm.running_mean, which the network of its plans.json does not have" in said
    assert "fold_0/checkpoint_final.pth" in said


RELU = '''
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerRelu(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, num_input_channels, num_output_channels,
                                   enable_deep_supervision=True):
        configuration_manager.network_arch_init_kwargs["nonlin"] = "torch.nn.ReLU"
        return nnUNetTrainer.build_network_architecture(plans_manager, configuration_manager, num_input_channels,
                                                        num_output_channels, enable_deep_supervision)
'''


@pytest.mark.parametrize("command", COMMANDS)
def test_a_layer_that_leaves_no_trace_in_the_tensors(command, world2d, nnunet_env, tmp_path, monkeypatch):
    """The checkpoint alone names the trainer: stock nnU-Net asks the checkpoint, whatever the folder is called."""
    world = nnunet_env(world2d)
    for folder in ("trainers", "renamed"):
        (tmp_path / folder).mkdir()
    (tmp_path / "trainers" / "nnUNetTrainerRelu.py").write_text(RELU)
    monkeypatch.setenv("nnUNet_extTrainer", f"{worlds.TRAINERS}:{tmp_path / 'trainers'}")
    model = rename(world.model(world.partner), "nnUNetTrainerRelu", tmp_path / "renamed")
    assert "nnUNetTrainerRelu builds another network" in refusal(command, model, world, tmp_path)
    if command != "export_party":  # which goes by the folder's name, and writes nnU-Net's own into what it sends
        model = model.rename(model.with_name("nnUNetTrainer__nnUNetPlans__2d"))
        assert "nnUNetTrainerRelu builds another network" in refusal(command, model, world, tmp_path)


def test_a_model_alone_answers_with_the_network_of_its_trainer(batch_norm, changed_network, nnunet_env, tmp_path):
    """Where one model is looked at alone (evaluate, compare), it answers as stock nnU-Net lets it."""
    from nnunetv2_stitch.inference.stock_predictor import stock_predictor
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    world = nnunet_env(batch_norm)
    images = world.test_images(world.partner)
    predict(changed_network, images, tmp_path / "stock")
    predictor = stock_predictor(read_model_folder(str(changed_network)), [0], torch.device("cpu"))
    (tmp_path / "ours").mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        predictor.predict_from_files_sequential(str(images), str(tmp_path / "ours"))
    assert_equal_voxels(tmp_path / "stock", tmp_path / "ours", 3)


def test_what_train_stitch_refuses_stitch_info_names(world2d, nnunet_env, tmp_path, capsys):
    """Kind: two commands that judge the same models judge them alike."""
    world = nnunet_env(world2d)
    model = tmp_path / world.model(world.partner).name

    def names(network):
        return lambda plans: plans["configurations"]["2d"]["architecture"].update(network_class_name=network)

    def no_tensor(folder):
        path = folder / "fold_1" / "checkpoint_final.pth"
        checkpoint = torch.load(path, weights_only=False)
        checkpoint["network_weights"].pop("decoder.seg_layers.2.bias")
        torch.save(checkpoint, path)

    def truncated(folder):
        path = folder / "fold_1" / "checkpoint_final.pth"
        path.write_bytes(path.read_bytes()[:-1000])

    def plans(change):
        def apply(folder):
            value = json.loads((folder / "plans.json").read_text())
            change(value)
            (folder / "plans.json").write_text(json.dumps(value))
        return apply

    for change, said in ((plans(names("os.system")), "'os.system' is not allowed"), (no_tensor, "lacks tensor"),
                         (truncated, "is cut short")):
        shutil.copytree(world.model(world.partner), model)
        change(model)
        lines = []
        for command, line in ((train_stitch, "801 -m_b {} --dry_run"), (stitch_info, "801 -m_b {}"),
                              (stitch_info, "801 -m_b {} --json")):
            with pytest.raises(StitchError, match=said) as caught:
                command.main(command.build_parser().parse_args(line.format(model).split()))
            lines.append(str(caught.value))
        assert lines[1] == lines[2] == f"these models cannot be stitched: {lines[0]}"
        shown = capsys.readouterr().out
        found = json.loads(shown[shown.index("{"):])
        assert found["refused"] == lines[0] and not found["can_be_stitched"]
        shutil.rmtree(model)
