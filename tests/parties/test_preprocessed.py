"""Which cases a fold leaves out, for whatever folds nnU-Net trains: the same everywhere as in its own training."""

import contextlib
import io
import json

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunetv2_stitch.parties.preprocessed import case_names, split_of_fold, validation_names
from nnunetv2_stitch.selection.party_cases import raw_dataset, validation_files


@pytest.fixture
def world(world2d, copy_world, nnunet_env):
    return nnunet_env(copy_world(world2d))


def stock_split(world, fold) -> tuple[list[str], list[str]]:
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = get_trainer_from_args(world.host.dataset, "2d", fold, "nnUNetTrainerTiny", device=torch.device("cpu"))
        training, validation = trainer.do_split()
    return [str(c) for c in training], [str(c) for c in validation]


def test_every_kind_of_fold_is_split_as_stock_nnunet_splits_it(world):
    folder = world.preprocessed / world.host.dataset
    cases = case_names(str(folder / "nnUNetPlans_2d"))
    assert len(cases) == 10
    for fold in (0, 1, 2, 4, "all"):  # splits_final.json has two folds
        training, validation = stock_split(world, fold)
        assert list(map(sorted, split_of_fold(str(folder), fold, cases))) == [sorted(training), sorted(validation)]
        assert validation_names(str(folder), "nnUNetPlans_2d", fold) == sorted(validation)
        if fold != "all":
            files = validation_files(raw_dataset(world.host.dataset), fold)
            assert [f.label.rpartition("/")[2][:6] for f in files] == sorted(validation)
    assert len(validation_names(str(folder), "nnUNetPlans_2d", 4)) == 2
    splits = folder / "splits_final.json"
    splits.unlink()
    validation = validation_names(str(folder), "nnUNetPlans_2d", 3)
    assert len(json.loads(splits.read_text())) == 5 and sorted(stock_split(world, 3)[1]) == validation
