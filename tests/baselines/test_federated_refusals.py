"""What federated averaging refuses, before anything is trained."""

import json

import pytest
import world as worlds

from nnunetv2_stitch.baselines.federated import FederatedParty
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.federation.data import check_request


@pytest.fixture
def asked(world2d, copy_world, nnunet_env):
    """`asked(change)`: what `check_request` says after `change(world)`."""
    def ask(change=lambda world: None, names=("A", "B"), plans=worlds.PLANS, configuration="2d", rounds=1):
        world = nnunet_env(copy_world(world2d))
        change(world)
        parties = [FederatedParty(n, p.dataset, plans) for n, p in zip(names, (world.host, world.partner))]
        return check_request(parties, configuration, rounds, 1, None)
    return ask


def edit(name, change):
    def apply(world):
        path = world.preprocessed / world.partner.dataset / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return apply


def test_a_partner_with_another_network_is_fine(asked):
    asked()


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rounds": 0}, "rounds is 0; it must be at least 1"),
    ({"names": ("A",)}, "at least two parties"),
    ({"names": ("A", "a")}, "they must differ"),
    ({"names": ("A", "../B")}, "made of letters"),
    ({"plans": "nnUNetOtherPlans"}, "nnUNetOtherPlans.json does not exist"),
    ({"configuration": "3d_fullres"}, "has no configuration 3d_fullres; it has 2d"),
    ({"change": edit("nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(spacing=[2.0, 2.0]))},
     "spacing differs from Dataset801_HostBlobs.*nnUNetv2_move_plans_between_datasets"),
    ({"change": edit("nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(data_identifier="no"))},
     "run nnUNetv2_preprocess -d 802"),
    ({"change": edit("nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(previous_stage="x"))}, "cascade"),
    ({"change": edit("dataset.json", lambda d: d["labels"].update(c=3))}, "labels in dataset.json differs"),
    ({"change": lambda w: (w.preprocessed / w.partner.dataset / "dataset_fingerprint.json").unlink()},
     "nnUNetv2_extract_fingerprint -d 802"),
])
def test_bad_input(asked, arguments, message):
    with pytest.raises(StitchError, match=message):
        asked(**arguments)


def test_without_folders(monkeypatch):
    parties = [FederatedParty("A", "Dataset001_A", "nnUNetPlans"), FederatedParty("B", "Dataset002_B", "nnUNetPlans")]
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    with pytest.raises(StitchError, match="nnUNet_preprocessed is not set"):
        check_request(parties, "2d", 1, 1, None)
