import pytest
import stitched_model


@pytest.fixture(scope="session")
def stitched2d(world2d, tmp_path_factory) -> stitched_model.Stitched:
    """Two folds stitched at every position. Read only: `copy_world(stitched2d.world)` gives a copy to change."""
    return stitched_model.trained(world2d, tmp_path_factory)


@pytest.fixture(scope="session")
def stitched3d(world3d, tmp_path_factory) -> stitched_model.Stitched:
    """The same in 3d, with one fold."""
    return stitched_model.trained(world3d, tmp_path_factory)
