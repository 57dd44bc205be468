"""One network for both parties of a world: the host's plans beside the partner's own, as after
nnUNetv2_move_plans_between_datasets. Both worlds' images are preprocessed in the same way."""

import shutil

import world as worlds

SHARED = "nnUNetSharedPlans"


def shared_plans(world: worlds.World, party: worlds.Party) -> str:
    """Write them into the party's preprocessed dataset; returns their name."""
    shutil.copyfile(world.preprocessed / world.host.dataset / f"{worlds.PLANS}.json",
                    world.preprocessed / party.dataset / f"{SHARED}.json")
    return SHARED
