import pytest
import stitched_model
import world as worlds


@pytest.fixture(scope="session")
def stitched2d(world2d, tmp_path_factory) -> stitched_model.Stitched:
    """Two folds stitched at every position. Read only: `copy_world(stitched2d.world)` gives a copy to change."""
    return stitched_model.trained(world2d, tmp_path_factory)


@pytest.fixture
def world(stitched2d, copy_world, nnunet_env, thread_pools) -> worlds.World:
    """A copy that the test may change, with the stitched model in it."""
    return nnunet_env(copy_world(stitched2d.world))
