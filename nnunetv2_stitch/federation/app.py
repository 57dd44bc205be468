"""The folder that `flwr run` takes: `python -m nnunetv2_stitch.federation.app FOLDER` writes it.

Flower copies an app to where it runs it; this one only points to this package, which must be installed at the centre
and at every party.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import write_text

PYPROJECT = """[project]
name = "nnunet-rounds"
version = "1.0.0"
description = "nnU-Net in rounds: parties train on, a centre merges what has come"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "nnunetv2-stitch"

[tool.flwr.app.components]
serverapp = "rounds.server:app"
clientapp = "rounds.client:app"

[tool.flwr.app.config]
# The training, the same for all.
configuration = "2d"
fold = "0"                  # each party's own split; or "all"
rounds = 50
epochs_per_round = 1        # of each party; nnU-Net's learning rate falls over all rounds
iterations = 0              # per epoch; 0: nnU-Net's own 250
seed = 12345

# The centre: its preprocessed data guide the merging, and its plans describe the network of all.
centre_dataset = "Dataset001_A"
centre_plans = "nnUNetPlans"
centre_device = "cuda"      # cuda, cpu or mps
start = ""                  # checkpoint at the centre that all begin with; "": nnU-Net's initialisation

# How long a round waits.
parties = 2                 # connected before the first round begins
deadline = 3600.0           # seconds that a round waits for models at most; the search comes on top
quorum = 0                  # models after which a round waits no longer; 0: all who were asked
max_age = -1                # models older than this many rounds do not take part; -1: any age
forget_after = 43200.0      # seconds after which a party that has not answered is asked again

# The centre's search, as the flags of nnUNetv2_merge_party.
granularity = "stage"
search = "gradient"
steps = 100
rate = 0.05
surrogate = "auto"
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "rounds/__init__.py": "",
    "rounds/server.py": "from nnunetv2_stitch.federation.server_app import app\n\n__all__ = [\"app\"]\n",
    "rounds/client.py": "from nnunetv2_stitch.federation.client_app import app\n\n__all__ = [\"app\"]\n",
}


def require_flower() -> None:
    """Raises StitchError if Flower is not installed."""
    if find_spec("flwr") is None:
        raise StitchError("guided merging with Flower needs Flower, which is not installed; run "
                          "pip install 'nnunetv2-stitch[federated]' (Python 3.11 or newer)")


def write_app(folder: str) -> None:
    """Write the app's folder.

    Raises:
        StitchError: Flower is not installed, or something is there already.
    """
    require_flower()
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise StitchError(f"{folder} is there already; name a new folder")
    for name, content in FILES.items():
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        write_text(os.path.join(folder, name), content)


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m nnunetv2_stitch.federation.app FOLDER", file=sys.stderr)
        return 2
    try:
        write_app(arguments[0])
    except StitchError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    print(f"{arguments[0]} is written; edit [tool.flwr.app.config] in its pyproject.toml, then: flwr run "
          f"{arguments[0]} SUPERLINK --stream")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
