"""Everything that trains sets up its process as nnU-Net's own training command does, in one place."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from world import all_cores

import nnunetv2_stitch
from nnunetv2_stitch.devices import set_budget, set_up_device, trainer_class
from nnunetv2_stitch.environment import usable_cores

ROOT = Path(nnunetv2_stitch.__file__).parent
WORDS = r"\b(set_num_threads|set_num_interop_threads|cudnn|get_trainer_from_args)\b"


def test_no_other_module_sets_threads_or_cudnn_or_makes_a_trainer_by_itself():
    checkout = Path(__file__).resolve().parents[1]
    files = [*ROOT.rglob("*.py"), *(checkout / "entrypoints").glob("*.py"), *(checkout / "trainers").glob("*.py")]
    found = {path.name for path in files if re.search(WORDS, path.read_text())}
    assert found == {"devices.py"}


def test_those_that_make_a_trainer_without_nnunets_function_set_up_too():
    made = [p for p in ROOT.rglob("*.py") if re.search(r"(?<!class )\bnnUNetTrainer\(", p.read_text())
            and "class nnUNetTrainer" not in p.read_text() and p.parent.name != "trainers"]
    assert {p.relative_to(ROOT).as_posix() for p in made} == {"federation/local.py", "training/centre.py"}
    assert all(re.search(r"set_up_(device|cudnn)\(", p.read_text()) for p in made)


@pytest.fixture
def kept(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with all_cores():
        yield
    torch.set_num_threads(threads)


def test_what_is_asked_for_by_omp_num_threads_is_done(kept, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    for given, threads in (({}, 5), ({"processes": 2}, max(1, usable_cores() // 2)), ({"threads": 3}, 3)):
        set_up_device("cpu", **given)
        assert torch.get_num_threads() == threads


def test_threads_and_cudnn_are_nnunets(kept, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for given, threads in (({}, usable_cores()), ({"processes": 2}, max(1, usable_cores() // 2)),
                           ({"processes": 999}, 1), ({"threads": 3}, 3)):
        set_up_device("cpu", **given)
        assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic


TRAINER = """from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerLate(nnUNetTrainer):
    version = {}
"""


def test_a_trainer_is_looked_for_once_until_files_come_or_go(tmp_path, monkeypatch):
    """The kind: what is kept for speed is not kept beyond the change of what it was made from."""
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer nnUNetTrainerLate"):
        trainer_class("nnUNetTrainerLate")
    file = tmp_path / "nnUNetTrainerLate.py"
    file.write_text(TRAINER.format(1))
    found = trainer_class("nnUNetTrainerLate")
    assert found.version == 1 and trainer_class("nnUNetTrainerLate") is found  # nnU-Net would import it anew
    file.unlink()
    file.write_text(TRAINER.format(22))
    assert trainer_class("nnUNetTrainerLate").version == 22


@pytest.mark.parametrize(("given", "left"), [((None, None), (50, 250, 10)), ((3, None), (3, 250, 10)),
                                             ((1, 2), (1, 2, 1)), ((None, 20), (50, 20, 4)), ((2, 500), (2, 500, 10))])
def test_validation_within_training_is_no_longer_than_a_fifth_of_it(given, left):
    trainer = SimpleNamespace(num_epochs=50, num_iterations_per_epoch=250, num_val_iterations_per_epoch=10)
    set_budget(trainer, *given)
    assert tuple(vars(trainer).values()) == left
