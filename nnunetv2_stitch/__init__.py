"""Stitched ensembles of finished nnU-Net models. Nothing heavy is imported here."""

__version__ = "0.1.0"

# In a source checkout the subpackages `trainers` and `entrypoints` lie beside this folder and not in it (setup.py maps
# them). Where the checkout's root is on sys.path (`python -m pytest`, `python -c` in the root), this folder hides the
# installed package, and without the next lines those two subpackages would be missing. Installed, they are found in
# the usual way and this does nothing.
from nnunetv2_stitch._checkout import make_mapped_folders_importable as _make_mapped_folders_importable

_make_mapped_folders_importable(__path__[0])
