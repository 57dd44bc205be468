"""A few steps of distillation on the small world."""

import stitched_model
import world as worlds

from nnunetv2_stitch.distillation import distill


def teacher_of(world: worlds.World):
    return world.results / world.host.dataset / f"{stitched_model.FOLDER}__2d"


def short(world: worlds.World, **arguments):
    """`distill` of a few steps."""
    arguments = {"device": "cpu", "progress": False, "folds": [0], "epochs": 1, "iterations": 2, "validate": False,
                 **arguments}
    return distill(str(teacher_of(world)), world.host.dataset, **arguments)
