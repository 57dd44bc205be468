"""A gated model of two hospitals: who answers whose images, and that stock nnU-Net gives the same."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def test_the_choice_is_recorded(gated2d):
    record = json.loads((gated2d.folder / "stitch_selection.json").read_text())
    print(json.dumps(record["gate"], indent=1), record["remarks"], record["validation_dice"])
    assert np.isfinite(record["gate"]["dice"]).all()
