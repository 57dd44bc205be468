import pytest
from evaluated_files import build


@pytest.fixture(scope="session")
def files2d(tmp_path_factory):
    """Read only."""
    return build(tmp_path_factory.mktemp("files2d"))


@pytest.fixture
def files(tmp_path):
    """A small one to change."""
    return build(tmp_path / "files", cases=3, models=("host", "joined"))


@pytest.fixture(scope="session")
def comparison2d(files2d):
    from nnunetv2_stitch.evaluation.evaluate import evaluate
    return evaluate(files2d.entries(), files2d.test_sets(), host="host", resamples=500)
