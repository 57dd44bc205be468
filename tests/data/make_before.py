"""Makes `before.tar.xz`: what an earlier version of this package wrote, for tests/stock/test_made_before.py.

`python tests/data/make_before.py OUTPUT.tar.xz [WORLD]` with that version installed; WORLD is a built 2d world of
tests/world.py (one is built where it is left out). The archive holds a small world of its own, because stitched models
know their parents by sha256: the parents' weights without optimizer states, the host's preprocessed data, and the
partner's test images. In it are a stitched model with its prediction, a partner's export with its signature, and a
training of stitches and of an adapted partner that were interrupted after the first epoch. Logs, plots and what else
names the computer stay out.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import stitched_model  # noqa: E402
import world as worlds  # noqa: E402
from interrupting import interrupt_at  # noqa: E402

HALF, ADAPTED = "nnUNetStitchPlansHalf", "nnUNetAdaptedPlansHalf"
LENGTH = {"folds": [0], "epochs": 3, "iterations": 2}
POSITIONS = stitched_model.SHORT["positions"]
MOST_BYTES = 1_500_000
UNWANTED = ("*.png", "debug.json", "*.txt", "*.lock", "*.jsonl", "validation")


def without_optimizer(path: Path) -> None:
    import torch

    from nnunetv2_stitch.parties.checkpoint import load_checkpoint
    torch.save({**load_checkpoint(str(path)), "optimizer_state": {}, "grad_scaler_state": None}, path)


def small_parents(world: worlds.World) -> None:
    """One fold each, without what prediction does not read."""
    for party in world.parties:
        folder = world.model(party)
        shutil.rmtree(folder / "fold_1")
        os.remove(folder / "fold_0" / "checkpoint_best.pth")
        without_optimizer(folder / "fold_0" / "checkpoint_final.pth")


def interrupted(train, folder: Path) -> None:
    try:
        with interrupt_at("Epoch 1", folder):
            train()
    except KeyboardInterrupt:
        return
    raise RuntimeError("the training was over before it was interrupted")


def make(world: worlds.World) -> None:
    import torch

    from nnunetv2_stitch.exchange.export import export_party
    from nnunetv2_stitch.inference.predictor import StitchedPredictor
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    from nnunetv2_stitch.training import adapt_party
    small_parents(world)
    partner = world.model(world.partner)
    export_party(read_model_folder(str(partner)), str(world.root / "partner.zip"), name="SiteB", licence="CC BY 4.0")
    result = stitched_model.stitch(world, **stitched_model.SHORT)
    predictor = StitchedPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(result.model_folder, (0,))
    (world.root / "predicted").mkdir()
    predictor.predict_from_files_sequential(str(world.test_images(world.partner)), str(world.root / "predicted"))
    host = world.results / world.host.dataset
    interrupted(lambda: stitched_model.stitch(world, positions=POSITIONS, plans_name=HALF, **LENGTH),
                host / f"nnUNetTrainerStitch__{HALF}__2d")
    interrupted(lambda: adapt_party(world.host.dataset, str(partner), plans_name=ADAPTED, device="cpu",
                                    progress=False, validate=False, **LENGTH),
                host / f"nnUNetTrainerAdapted__{ADAPTED}__2d")


def kept(world: worlds.World) -> list[Path]:
    """Files for the archive, those of like contents beside each other."""
    host, partner = world.host.dataset, world.partner.dataset
    folders = (world.preprocessed / host, world.results, world.raw / partner / "imagesTs")
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    files = [p for p in files if not any(part.match(u) for u in UNWANTED for part in (p, *p.parents))]
    files += [*(world.root / "predicted").glob("*.nii.gz"), world.root / "partner.zip",
              world.raw / host / "dataset.json", world.raw / partner / "dataset.json"]
    return sorted(set(files), key=lambda p: (p.suffix, p.name, str(p)))


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def pack(world: worlds.World, output: Path) -> None:
    told = (str(world.root), tempfile.gettempdir() + "/", str(Path(__file__).parents[2]))
    if naming := [f"{p}: {text}" for p in kept(world) for text in told if text.encode() in p.read_bytes()]:
        raise RuntimeError(f"these name the computer: {naming}")
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
    with lzma.open(output, "wb", filters=filters) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for path in kept(world):
            archive.add(path, path.relative_to(world.root), filter=anonymous)
    size = output.stat().st_size
    print(json.dumps({str(p.relative_to(world.root)): p.stat().st_size for p in kept(world)}, indent=1), size)
    if size > MOST_BYTES:
        raise RuntimeError(f"{output} has {size} bytes, more than {MOST_BYTES}")


def main(output: Path, built: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if built is None:
            worlds.build(built := Path(folder, "built"), 2)
        world = worlds.World(Path(shutil.copytree(built, Path(folder, "world"))), 2)
        os.environ.update({**world.env, "nnUNet_extTrainer": str(worlds.TRAINERS)})
        with worlds.thread_pools():
            make(world)
        pack(world, output)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve() if sys.argv[2:] else None)
