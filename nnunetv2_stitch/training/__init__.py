"""Training of one network from a start: from scratch, from a checkpoint or from a model, with or without a teacher."""

from importlib import import_module as _import_module

# Imported at the first use: nnU-Net imports our trainers, and they the module beside this, whenever it looks for any.
_MODULES = {
    "AdaptRequest": "adapt_job", "AdaptResult": "adapt", "adapt_party": "adapt", "adapted_state": "line",
    "FromMergedRequest": "from_merged", "TrainingJob": "job", "TrainingResult": "job",
    "train_from_merged": "from_merged",
}
__all__ = [*_MODULES]  # noqa: PLE0604


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"{__name__}.{_MODULES[name]}"), name)
