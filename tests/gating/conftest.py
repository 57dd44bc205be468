"""A stitched model with a gate, made as two hospitals would: B exports, A stitches with the zip."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import stitched_model
import world as worlds

POSITION = 41


@dataclass(frozen=True)
class GatedModel:
    """In a copy of a world, of fold 0. `folder` is the model's, `zip` B's export, `said` what export and training say.
    """

    world: worlds.World
    folder: Path
    zip: Path
    result: object


def make(world: worlds.World, root: Path, **arguments) -> GatedModel:
    from nnunetv2_stitch.exchange.export import export_party
    from nnunetv2_stitch.parties.reading import read_model_folder
    from nnunetv2_stitch.pipeline import train_stitch
    copy = replace(world, root=Path(shutil.copytree(world.root, root / "world")))
    with stitched_model.environment(copy.env), worlds.thread_pools():
        path = root / "b.zip"
        export_party(read_model_folder(str(copy.model(copy.partner))), str(path), name="SiteB", folds=[0])
        shutil.rmtree(copy.preprocessed / copy.partner.dataset)  # A has none of B's images
        arguments = {"folds": [0], "positions": [2, 20, POSITION], "position": POSITION, "rule": "3", "fit": "direct",
                     "iterations": 5, "gate": True, "device": "cpu", "progress": False, **arguments}
        result = train_stitch(copy.host.dataset_id, model_b=str(path), **arguments)
    return GatedModel(copy, Path(result.model_folder), path, result)


@pytest.fixture(scope="session")
def gated2d(world2d, tmp_path_factory) -> GatedModel:
    """Read only."""
    return make(world2d, tmp_path_factory.mktemp("gated"))


