"""A stitched model with a gate, made as two hospitals would: B exports, A stitches with the zip."""

import json
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
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    from nnunetv2_stitch.pipeline import train_stitch
    copy = replace(world, root=Path(shutil.copytree(world.root, root / "world")))
    for party in copy.parties:
        add_cases(copy, party)
    with stitched_model.environment(copy.env), worlds.thread_pools():
        path = root / "b.zip"
        export_party(read_model_folder(str(copy.model(copy.partner))), str(path), name="SiteB", folds=[0])
        shutil.rmtree(copy.preprocessed / copy.partner.dataset)  # A has none of B's images
        arguments = {"folds": [0], "positions": [2, 20, POSITION], "position": POSITION, "rule": "3", "fit": "direct",
                     "iterations": 3, "gate": True, "device": "cpu", "progress": False, **arguments}
        result = train_stitch(copy.host.dataset_id, model_b=str(path), **arguments)
    return GatedModel(copy, Path(result.model_folder), path, result)


def add_cases(world: worlds.World, party: worlds.Party, training: int = 30, validation: int = 12) -> None:
    """More cases in every fold, for five tell no distribution; preprocessed as nnU-Net does."""
    import numpy as np
    import SimpleITK as sitk
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    folder, random = world.preprocessed / party.dataset, np.random.default_rng(party.dataset_id + 1)
    manager = PlansManager(str(folder / f"{worlds.PLANS}.json"))
    configuration = manager.get_configuration(world.configuration)
    dataset_json = json.loads((folder / "dataset.json").read_text())
    data_folder = folder / configuration.data_identifier
    names = [f"more_{i:03d}" for i in range(training + validation)]
    for name in names:
        files = []
        for array, path in zip(worlds.draw_case(party, world.dim, random), (f"images/{name}_0000", f"labels/{name}")):
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing(worlds.SPACING[world.dim])
            files.append(world.raw / party.dataset / f"{path.replace('/', 'Tr/')}{world.ending}")
            sitk.WriteImage(volume, str(files[-1]))
        shutil.copy(files[1], folder / "gt_segmentations")
        data, segmentation, properties = configuration.preprocessor_class(verbose=False).run_case(
            [str(files[0])], str(files[1]), manager, configuration, dataset_json)
        infer_dataset_class(str(data_folder)).save_case(data, segmentation, properties, str(data_folder / name))
    splits = json.loads((folder / "splits_final.json").read_text())
    worlds.write(folder / "splits_final.json", [
        {"train": s["train"] + names[:training], "val": s["val"] + names[training:]} for s in splits])


@pytest.fixture(scope="session")
def gated2d(world2d, tmp_path_factory) -> GatedModel:
    """Read only."""
    return stitched_model.once_for_all_workers(tmp_path_factory, "gated2d", lambda root: make(world2d, root))


