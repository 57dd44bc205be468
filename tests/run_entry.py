"""`python tests/run_entry.py COMMAND ARGUMENTS`: a command as the tests run it, for launchers such as torchrun."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

if __name__ == "__main__":
    from stitched_model import run_entry
    run_entry(sys.argv[1:])
