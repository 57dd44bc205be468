"""Makes the mapped top-level folders importable where the package is used straight from a source checkout."""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType

MAPPED_FOLDERS = ("trainers", "entrypoints")


class _CheckoutFinder:
    """Finds `nnunetv2_stitch.trainers` and `nnunetv2_stitch.entrypoints` in the root of a checkout.

    A finder, not an entry in the package's `__path__`: the root as such an entry would also turn `tests` and `setup`
    into subpackages of ours.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a mapped folder, None for any other name."""
        package, _, folder = fullname.rpartition(".")
        if package != "nnunetv2_stitch" or folder not in MAPPED_FOLDERS:
            return None
        location = os.path.join(self.root, folder)
        return spec_from_file_location(
            fullname, os.path.join(location, "__init__.py"), submodule_search_locations=[location]
        )


def make_mapped_folders_importable(package_folder: str) -> None:
    """Do nothing unless `package_folder` lies in a checkout, that is has no `trainers` in it but has one beside it.

    The finder goes to the end of `sys.meta_path`: what an installer put there for an editable install comes first.
    """
    root = os.path.dirname(os.path.abspath(package_folder))
    for folder in MAPPED_FOLDERS:
        inside = os.path.join(package_folder, folder)
        if os.path.isdir(inside) or not os.path.isfile(os.path.join(root, folder, "__init__.py")):
            return
    if not any(isinstance(finder, _CheckoutFinder) and finder.root == root for finder in sys.meta_path):
        sys.meta_path.append(_CheckoutFinder(root))
