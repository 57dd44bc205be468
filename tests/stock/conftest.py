import pytest
import stitched_model


@pytest.fixture(scope="session")
def stitched3d(world3d, tmp_path_factory) -> stitched_model.Stitched:
    """The same in 3d, with one fold."""
    return stitched_model.trained(world3d, tmp_path_factory)
