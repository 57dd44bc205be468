"""Three parties, three rounds, and nothing that passes between them but zips."""

import shutil
from pathlib import Path

import pytest
import torch
import world as worlds
from pages import page_of
from stitched_model import environment

from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.merging.run import MergeRequest, merge_guided
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, sha256
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.training import train_from_merged

pytestmark = pytest.mark.slow

THIRD = "Dataset803_Third"


@pytest.fixture
def sites(world2d, tmp_path, thread_pools):
    """Folder of each site by dataset: its own preprocessed data and nothing else. The third has the host's images, of
    the other fold."""
    found = {}
    for name, like in ((world2d.host.dataset, world2d.host.dataset), (world2d.partner.dataset, world2d.partner.dataset),
                       (THIRD, world2d.host.dataset)):
        found[name] = tmp_path / name
        shutil.copytree(world2d.preprocessed / like, found[name] / "preprocessed" / name)
        (found[name] / "results").mkdir()
    splits = found[THIRD] / "preprocessed" / THIRD / "splits_final.json"
    write_json(str(splits), read_json(splits)[::-1])
    return found


def at(site: Path):
    """nnU-Net's folders are those of one site."""
    return environment({**worlds.QUIET, "nnUNet_raw": str(site / "raw"),
                        "nnUNet_preprocessed": str(site / "preprocessed"), "nnUNet_results": str(site / "results")})


def party_trains(site: Path, dataset: str, received: str, number: int, sent: str) -> Path:
    with at(site):
        result = train_from_merged(received, dataset, device="cpu", validate=False, folds=[0], epochs=1, iterations=2,
                                   plans_name=f"Round{number}", data_plans="nnUNetPlans", rate=1e-2, seed=number)
        export_party(read_model_folder(result.model_folder), sent)
    return Path(result.model_folder)


def test_three_parties_three_rounds(world2d, sites, tmp_path):
    sent = {name: str(tmp_path / f"{name}.zip") for name in sites}
    merged_zip, centre = str(tmp_path / "merged.zip"), world2d.host.dataset
    base = read_model_folder(str(world2d.model(world2d.host))).checkpoint_path(0)
    export_party(read_model_folder(str(world2d.model(world2d.host))), merged_zip, folds=[0])
    for number in (1, 2, 3):
        digests = {name: sha256(path) for name, path in sent.items() if number > 1}
        for name, site in sites.items():
            if (number, name) != (2, THIRD):  # who is late takes part with what was sent before
                model = party_trains(site, name, merged_zip, number, sent[name])
                assert read_json(model / "fold_0" / "from_merged.json")["seed"] == number
        assert {name for name, digest in digests.items() if sha256(sent[name]) == digest} == \
            ({THIRD} if number == 2 else set())
        with at(sites[centre]):
            merged = merge_guided(MergeRequest([*sent.values()], centre, "2d", 0, f"Merged{number}", base, steps=2,
                                               plans_name="nnUNetPlans", rate=0.2), "cpu")
            export_party(read_model_folder(merged.model_folder), merged_zip)
        record = read_json(Path(merged.model_folder) / "fold_0" / "merge.json")
        assert record["base"] == {"kind": "checkpoint", "sha256": sha256(base)}
        assert record["check"]["verdict"] == "merge" and len(record["members"]) == 3
        page = page_of(merged.model_folder)
        assert "FedAvg weighting" in page.text and "Coefficients, fold 0" in page.text
        assert max(row["score"] for row in record["table"]) > 0.8
        base = str(Path(merged.model_folder) / "fold_0" / "checkpoint_final.pth")
    # A party's last model is the network of the centre's first, with other weights.
    first, last = (load_checkpoint(p)["network_weights"] for p in (
        world2d.model(world2d.host) / "fold_0" / "checkpoint_final.pth", model / "fold_0" / "checkpoint_final.pth"))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in last.items()}
    assert all(torch.isfinite(v).all() for v in last.values()) and any((v != last[k]).any() for k, v in first.items())
    for name, site in sites.items():  # nobody's images or models are at another site, but for what was sent
        inside = {p.name for p in (site / "preprocessed").iterdir()} | {p.name for p in (site / "results").iterdir()}
        assert inside == {name, "stitch_parties"}
