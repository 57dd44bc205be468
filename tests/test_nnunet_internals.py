"""One door to nnU-Net's internals: nothing else touches what is private to nnU-Net, and what is gone is said in a line.
"""

import ast
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import nnunetv2
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.logging.nnunet_logger import LocalLogger, MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_stitch import nnunet_internals
from nnunetv2_stitch.errors import StitchError

ROOT = Path(__file__).resolve().parents[1]
DOOR = ROOT / "nnunetv2_stitch" / "nnunet_internals.py"
#: of torch and of Python, and of a class of ours that another function of its module calls
NOT_NNUNET = {"_exit", "_run_exitfuncs", "_cdata", "_ConvNd", "_DropoutNd", "_NormBase", "_orig_mod", "_go_on"}


@lru_cache
def parsed(folder: Path) -> dict[Path, ast.Module]:
    return {p: ast.parse(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.py"))}


def ours() -> dict[Path, ast.Module]:
    return {p: tree for name in ("nnunetv2_stitch", "trainers", "entrypoints")
            for p, tree in parsed(ROOT / name).items() if p != DOOR}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined(trees) -> set[str]:
    """Private names of functions, methods and attributes that are made there."""
    found = set()
    for node in (n for tree in trees for n in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return set(filter(is_private, found))


def touched(tree: ast.Module) -> list[tuple[int, str, str]]:
    """Line, private name and how it is touched: of something else, of self, or defined in a class."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found.append((node.lineno, node.attr, "self" if own else "other"))
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("torch."):
            own = (node.module or "").startswith("nnunetv2_stitch")
            found += [(node.lineno, alias.name, "self" if own else "other") for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            found += [(node.lineno, a.value, "other") for a in node.args[1:2] if isinstance(a, ast.Constant)]
        elif isinstance(node, ast.ClassDef):
            found += [(n.lineno, n.name, "defined") for n in node.body if isinstance(n, ast.FunctionDef)]
    return [(line, name, how) for line, name, how in found if is_private(str(name))]


def test_nothing_but_the_door_touches_what_is_private_to_something_else():
    """`x._name` and `getattr(x, "_name")` of whatever is not one's own; `self._name` that no class of ours makes."""
    made = defined(ours().values())
    wrong = [f"{p.relative_to(ROOT)}:{line} {name}" for p, tree in ours().items() for line, name, how in touched(tree)
             if name not in NOT_NNUNET and (how == "other" or how == "self" and name not in made)]
    assert not wrong


def test_no_class_of_ours_overrides_what_is_private_to_nnunet():
    """A private method or attribute of nnU-Net's trainer or predictor has no namesake in our classes."""
    folder = Path(nnunetv2.__path__[0])
    theirs = defined(parsed(folder / "training" / "nnUNetTrainer").values()) | defined(
        parsed(folder / "inference").values()) | defined(parsed(folder / "training" / "logging").values())
    assert set(nnunet_internals.PREDICTOR) <= theirs  # so this test would see them
    wrong = [f"{p.relative_to(ROOT)}:{line} {name}" for p, tree in ours().items() for line, name, how in touched(tree)
             if how == "defined" and name in theirs]
    assert not wrong


def test_the_door_lists_what_it_touches_and_nnunet_has_it():
    """`TRAINER`, `PREDICTOR`, `LOGGER` and `LOGGED` name all that the module asks nnU-Net for."""
    tree = ast.parse(DOOR.read_text())
    asked = {node.args[1].value for node in ast.walk(tree)
             if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "part"}
    listed = {*nnunet_internals.TRAINER, *nnunet_internals.PREDICTOR, *nnunet_internals.LOGGER}
    assert asked == listed | {"_getDefaultValue", "Pool"}
    private = {name for _, name, how in touched(tree) if how == "other"} - NOT_NNUNET
    assert private <= listed, "touched without asking whether it is there"
    for owner, names in ((nnUNetTrainer, nnunet_internals.TRAINER), (nnUNetPredictor, nnunet_internals.PREDICTOR),
                         (MetaLogger, nnunet_internals.LOGGER)):
        source = ast.dump(ast.parse(Path(__import__(owner.__module__, fromlist=["x"]).__file__).read_text()))
        assert all(hasattr(owner, name) or f"attr='{name}'" in source for name in names)
    kept = set(LocalLogger().my_fantastic_logging)
    assert set(nnunet_internals.LOGGED) | {"ema_fg_dice"} == kept  # the mean is logged with mean_fg_dice


class OtherTrainer:
    """Of another nnU-Net, in which everything private has another name."""

    logger, label_manager, current_epoch = SimpleNamespace(), None, 0


@pytest.mark.parametrize("call, gone", [
    (nnunet_internals.set_up_for_group, "_set_batch_size_and_oversample"),
    (nnunet_internals.do_not_compile, "_do_i_compile"),
    (nnunet_internals.without_best_epoch, "_best_ema"),
    (nnunet_internals.without_progress_plot, "plot_progress_png"),
    (lambda trainer: nnunet_internals.restore_progress(trainer, {}), "_best_ema"),
    (lambda trainer: nnunet_internals.once_files_are_written(trainer, list).__enter__(), "plot_network_architecture"),
])
def test_a_part_that_is_gone_is_named_with_the_versions(call, gone):
    with pytest.raises(StitchError) as caught:
        call(OtherTrainer())
    said = str(caught.value)
    assert f"has {gone} no more" in said and "\n" not in said
    assert f"nnU-Net {nnunet_internals.version('nnunetv2')}" in said
    assert f"nnunetv2 {nnunet_internals.tested_versions()}" in said and "2.8.1" in nnunet_internals.tested_versions()


@pytest.mark.parametrize("owner, name, call", [
    (nnUNetTrainer, "do_split", lambda: nnunet_internals.split("nowhere", "all", ["a"])),
    (nnUNetPredictor, "_internal_get_sliding_window_slicers",
     lambda: nnunet_internals.sliding_window_slicers((1, 8, 8), (4, 4))),
    (nnUNetPredictor, "_manage_input_and_output_lists",
     lambda: type("Predictor", (nnunet_internals.InputLists, nnUNetPredictor), {})(
         device=torch.device("cpu"), perform_everything_on_device=False).require_input_lists()),
])
def test_a_part_that_is_gone_from_a_class_is_named(owner, name, call, monkeypatch):
    call()
    monkeypatch.delattr(owner, name)
    with pytest.raises(StitchError, match=f"has {name} no more"):
        call()


def test_a_split_that_asks_for_more_than_the_stand_in_knows_is_said(monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda self: (self.cases_of_another_version, []))
    with pytest.raises(StitchError, match="has a do_split that asks for no more"):
        nnunet_internals.split("nowhere", "all", ["a"])


def test_a_key_that_is_logged_no_more_is_named(monkeypatch):
    monkeypatch.setattr(nnunet_internals, "LOGGED", ("no_such_key",))
    with pytest.raises(StitchError, match="has no_such_key among what it logs no more"):
        nnunet_internals.log_missed_epoch(SimpleNamespace(logger=LocalLogger(), current_epoch=0))


def test_files_that_are_written_without_the_hook_are_not_lost_silently():
    trainer = SimpleNamespace(plot_network_architecture=lambda: None)
    called = []
    with nnunet_internals.once_files_are_written(trainer, lambda: called.append(1)):
        trainer.plot_network_architecture()
    assert called == [1]
    trainer.plot_network_architecture = lambda: None
    with pytest.raises(StitchError, match="the call of plot_network_architecture no more"):
        with nnunet_internals.once_files_are_written(trainer, list):
            pass


@pytest.mark.parametrize("shape, patch", [((5, 40, 33), (16, 16)), ((20, 24, 18), (8, 16, 8))])
def test_slicers_are_those_that_a_prediction_visits(shape, patch, monkeypatch):
    """Seen from inside nnU-Net's own sliding window."""
    seen = []
    window = nnunet_internals.sliding_window(SimpleNamespace(patch_size=patch),
                                             SimpleNamespace(num_segmentation_heads=2), torch.device("cpu"),
                                             torch.nn.Identity())
    original = nnUNetPredictor._internal_predict_sliding_window_return_logits

    def spy(self, data, slicers, *more):
        seen.extend(slicers)
        return original(self, data, slicers, *more)

    monkeypatch.setattr(nnUNetPredictor, "_internal_predict_sliding_window_return_logits", spy)
    logits = window.predict_sliding_window_return_logits(torch.ones(2, *shape))
    assert seen == nnunet_internals.sliding_window_slicers(shape, patch)
    torch.testing.assert_close(logits.float(), torch.ones(2, *shape), atol=1e-2, rtol=0)


def test_training_files_are_nnunets_without_forks(tmp_path, monkeypatch):
    """Kind: a forked copy of a process with threads may wait for a lock that no thread of its own will give back."""
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
    (tmp_path / "imagesTr").mkdir()
    for case in ("a", "a_b", "b"):
        for channel in (0, 1):
            (tmp_path / "imagesTr" / f"{case}_{channel:04d}.nii.gz").touch()
    dataset_json = {"file_ending": ".nii.gz"}
    wanted = get_filenames_of_train_images_and_targets(str(tmp_path), dataset_json)
    monkeypatch.setattr("os.fork", lambda: pytest.fail("forked"))
    assert nnunet_internals.training_files(str(tmp_path), dataset_json) == wanted and len(wanted) == 3
