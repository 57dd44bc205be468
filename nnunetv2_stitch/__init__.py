"""Stitched ensembles of finished nnU-Net models. Nothing heavy is imported here."""

from importlib import import_module as _import_module

__version__ = "0.2.0"

# In a source checkout the subpackages `trainers` and `entrypoints` lie beside this folder and not in it (setup.py maps
# them). Where the checkout's root is on sys.path (`python -m pytest`, `python -c` in the root), this folder hides the
# installed package, and without the next lines those two subpackages would be missing. Installed, they are found in
# the usual way and this does nothing.
from nnunetv2_stitch._checkout import make_mapped_folders_importable as _make_mapped_folders_importable

_make_mapped_folders_importable(__path__[0])

# Public names and the modules they are in, which are imported at the first use: torch and nnU-Net take seconds.
_MODULES = {
    "stitch": "api.training", "compare": "api.evaluation", "evaluate": "api.evaluation", "distill": "api.training",
    "adapt": "api.training", "merge": "api.training",
    "StitchedPredictor": "inference.predictor", "StitchedEnsemble": "fitting.any_networks",
    "features": "graph.features", "match_layers": "graph.matching", "StitchError": "errors",
}
__all__ = [*_MODULES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(_import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
