"""A partner's site with nothing but its own images and a stitched model that was sent to it; commands called there."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import stitched_model
from stitched_model import tree

from nnunetv2_stitch.entrypoints.common import run


@dataclass(frozen=True)
class Site:
    """The partner's: its own images and splits, and the stitched model as it was sent. Nothing else."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / f"{stitched_model.FOLDER}__2d"

    @property
    def raw(self) -> Path:
        return self.root / "raw" / "Dataset802_PartnerBlobs"

    @property
    def splits(self) -> Path:
        return self.root / "preprocessed" / "Dataset802_PartnerBlobs" / "splits_final.json"

    @property
    def file(self) -> Path:
        return self.root / "sweep_Dataset802_PartnerBlobs.json"


def make_site(stitched, root: Path) -> Site:
    site, world = Site(root), stitched.world
    shutil.copytree(stitched.folder, site.model, ignore=shutil.ignore_patterns("validation"))
    shutil.copytree(world.raw / world.partner.dataset, site.raw)
    site.splits.parent.mkdir(parents=True)
    shutil.copy(world.preprocessed / world.partner.dataset / "splits_final.json", site.splits)
    return site


def use(site: Site, patch) -> Site:
    patch.delenv("nnUNet_results", raising=False)
    patch.setenv("nnUNet_raw", str(site.root / "raw"))
    patch.setenv("nnUNet_preprocessed", str(site.root / "preprocessed"))
    patch.chdir(site.root)
    return site


def command(module, *arguments):
    """As the console script: parse, then call through `run`."""
    args = module.build_parser().parse_args([*map(str, arguments), "-device", "cpu", "--disable_progress_bar"])
    run(lambda: module.main(args), verbose=args.verbose)


def refused(root, capsys, module, *arguments) -> str:
    """The one line that the command says; checks the code and that nothing was written."""
    before = tree(root), sorted(root.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        command(module, *arguments)
    err = capsys.readouterr().err
    assert caught.value.code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    assert (tree(root), sorted(root.rglob("*"))) == before
    return err


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return path
