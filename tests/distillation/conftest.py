import pytest
import world as worlds


@pytest.fixture
def world(stitched2d, copy_world, nnunet_env, thread_pools) -> worlds.World:
    """A copy that the test may change, with the stitched model in it."""
    return nnunet_env(copy_world(stitched2d.world))
