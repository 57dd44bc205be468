"""The one door to what nnU-Net does not document: private methods and attributes, and public ones that are used for
more than they promise. One function each; where nnU-Net has changed it says so: a new nnU-Net is this file's work.

Nothing heavy is imported here, so trainer files may import it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from importlib.metadata import PackageNotFoundError, requires, version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.folders import as_fold

if TYPE_CHECKING:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

#: what is looked for in nnU-Net, by the function or class that is touched
TRAINER = ("_set_batch_size_and_oversample", "_build_loss", "_do_i_compile", "_best_ema", "plot_network_architecture",
           "do_split")
PREDICTOR = ("_internal_get_sliding_window_slicers", "_manage_input_and_output_lists")
LOGGER = ("plot_progress_png",)
LOGGED = ("train_losses", "val_losses", "mean_fg_dice", "dice_per_class_or_region", "lrs", "epoch_start_timestamps",
          "epoch_end_timestamps")  # of which the logger wants one value for each epoch
NOTHING = float("nan")  # what is logged where nothing was measured


def tested_versions() -> str:
    """The range of nnU-Net versions that this package was tested with, from its own requirements."""
    try:
        found = [r for r in requires("nnunetv2-stitch") or [] if r.split(";")[0].startswith("nnunetv2")]
    except PackageNotFoundError:
        found = []
    return found[0].removeprefix("nnunetv2") if found else "that its pyproject.toml names"


def changed(what: str, needed_for: str) -> StitchError:
    """The error for a part of nnU-Net that is gone."""
    return StitchError(f"nnU-Net {version('nnunetv2')} has {what} no more, which {needed_for} needs; nnunetv2-stitch "
                       f"was tested with nnunetv2 {tested_versions()}: install one of these, or update nnunetv2-stitch")


def part(owner: Any, name: str, needed_for: str) -> Any:
    """`owner.name`. Raises StitchError if the installed nnU-Net has no such part."""
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise changed(name, needed_for) from error


@contextmanager
def threads_for_processes() -> Iterator[None]:
    """Within, nnU-Net works with threads where it would spawn processes, each of which imports it anew for 5 to 15 s:
    for data so small that this is most of the work."""
    import multiprocessing
    from multiprocessing.pool import ThreadPool
    original = multiprocessing.get_context

    def get_context(method: str | None = None) -> Any:
        return SimpleNamespace(Pool=ThreadPool) if method == "spawn" else original(method)

    multiprocessing.get_context = get_context
    try:
        yield
    finally:
        multiprocessing.get_context = original


def training_files(folder: str, dataset_json: dict) -> dict[str, dict]:
    """`images` and `label` of every training case in a folder of nnUNet_raw. nnU-Net forks twelve processes to match
    names; here they are threads, because a fork of a process that has threads of torch may hang."""
    from multiprocessing.pool import ThreadPool

    from nnunetv2.utilities import utils
    original = part(utils, "Pool", "the list of training images")
    utils.Pool = ThreadPool
    try:
        return utils.get_filenames_of_train_images_and_targets(folder, dataset_json)
    finally:
        utils.Pool = original


# -- the trainer ------------------------------------------------------------------------------------------------------

def set_up_for_group(trainer: nnUNetTrainer) -> None:
    """What `initialize` decides in a process group: this process' part of the batch and of the oversampling, and the
    loss for it."""
    part(trainer, "_set_batch_size_and_oversample", "training in several processes")()
    trainer.loss = part(trainer, "_build_loss", "training in several processes")()


def do_not_compile(trainer: nnUNetTrainer) -> None:
    """`initialize` asks `_do_i_compile` whether torch.compile gets the network, whatever `nnUNet_compile` says."""
    part(trainer, "_do_i_compile", "a network that must not be compiled")
    trainer._do_i_compile = lambda: False


def uncompiled(network: torch.nn.Module) -> torch.nn.Module:
    """Without torch.compile's wrapper, which nnU-Net puts around networks and which renames their weights."""
    return getattr(network, "_orig_mod", network)


@contextmanager
def once_files_are_written(trainer: nnUNetTrainer, act: Callable[[], None]) -> Iterator[None]:
    """`on_train_start` within writes the files of the model folder and then, in every process, draws the network: at
    this moment `act` is called, instead of the drawing."""
    part(trainer, "plot_network_architecture", "a model folder that is written at once")
    called = []

    def hook() -> None:
        called.append(True)
        act()

    trainer.plot_network_architecture = hook
    try:
        yield
    finally:
        del trainer.plot_network_architecture
    if not called:
        raise changed("the call of plot_network_architecture", "a model folder that is written at once")


def values_of_key(key: str) -> tuple[int, ...]:
    """Of a key among the metrics in `summary.json`: `1` is a label, `(1, 2)` a region."""
    return tuple(map(int, re.findall(r"\d+", key)))


def restore_progress(trainer: nnUNetTrainer, checkpoint: Mapping) -> None:
    """What nnU-Net's `load_checkpoint` takes over beside weights and optimizer."""
    part(trainer, "_best_ema", "going on after a finished training")
    trainer.current_epoch = checkpoint["current_epoch"]
    trainer.logger.load_checkpoint(checkpoint["logging"])
    trainer._best_ema = checkpoint["_best_ema"]
    trainer.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]


def without_best_epoch(trainer: nnUNetTrainer) -> None:
    """No epoch is a new best one, as long as nothing is validated: nothing is greater than NaN."""
    part(trainer, "_best_ema", "training without validation")
    trainer._best_ema = NOTHING


def without_progress_plot(trainer: nnUNetTrainer) -> None:
    """`on_epoch_end` draws the losses, which takes seconds."""
    part(trainer.logger, "plot_progress_png", "training without a plot")
    trainer.logger.plot_progress_png = lambda folder: None


def log_missed_epoch(trainer: nnUNetTrainer) -> None:
    """Of an epoch that is not trained: the logger wants one value of each kind."""
    for key in LOGGED:
        _log(trainer, key, NOTHING)


def log_no_validation(trainer: nnUNetTrainer) -> None:
    """Of an epoch that is trained and not validated."""
    classes = len(trainer.label_manager.foreground_labels)
    for key in ("mean_fg_dice", "val_losses", "dice_per_class_or_region"):
        _log(trainer, key, [NOTHING] * classes if key == "dice_per_class_or_region" else NOTHING)


def _log(trainer: nnUNetTrainer, key: str, value: float | list[float]) -> None:
    try:
        trainer.logger.log(key, value, trainer.current_epoch)
    except (AssertionError, KeyError) as error:  # how the logger takes a key that it does not know
        raise changed(f"{key} among what it logs", "training without validation") from error


def training_loss(trainer: nnUNetTrainer, epoch: int) -> float:
    """Mean over the epoch's steps, as logged."""
    return float(trainer.logger.get_value("train_losses", step=epoch))


def split(folder: str, fold: int | str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Training and validation cases by the trainer's `do_split`, called with a stand-in for the trainer, because a real
    one makes folders and reads plans. Without splits_final.json it writes it.

    Args:
        folder: the dataset's, in nnUNet_preprocessed.
        names: of all its preprocessed cases, sorted.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    dataset = SimpleNamespace(identifiers=list(names))

    class Cases:
        """Instead of nnU-Net's dataset class, which looks for the names in a folder."""

        def __new__(cls, *_, **__):
            return dataset

        @staticmethod
        def get_identifiers(_folder: str) -> list[str]:
            return list(names)

    stand_in = SimpleNamespace(fold=as_fold(fold), dataset_class=Cases,
                               preprocessed_dataset_folder=folder, preprocessed_dataset_folder_base=folder,
                               folder_with_segs_from_previous_stage=None, print_to_log_file=lambda *_, **__: None)
    do_split = part(nnUNetTrainer, "do_split", "the split of a fold")
    try:
        training, validation = do_split(stand_in)
    except AttributeError as error:
        if error.obj is not stand_in:
            raise
        raise changed("a do_split that asks for no more than cases and folders", "the split of a fold") from error
    return [str(c) for c in training], [str(c) for c in validation]


# -- a training step, as the trainer takes it --------------------------------------------------------------------------

def on_device(values: torch.Tensor | list[torch.Tensor], device: torch.device) -> torch.Tensor | list[torch.Tensor]:
    """Data or target of a batch; with deep supervision a target is one tensor per resolution."""
    if isinstance(values, list):
        return [v.to(device, non_blocking=True) for v in values]
    return values.to(device, non_blocking=True)


def mixed_precision(device: torch.device) -> AbstractContextManager:
    """On CUDA only."""
    import torch
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()


def optimise(trainer: nnUNetTrainer, loss: torch.Tensor,
             parameters: Callable[[], Iterable[torch.nn.Parameter]]) -> None:
    """Backward, clipped gradients, and the optimizer's step. `parameters`: asked after the backward pass for those that
    are trained."""
    import torch
    scaler = trainer.grad_scaler
    (loss if scaler is None else scaler.scale(loss)).backward()
    found = list(parameters())
    if scaler is not None:
        scaler.unscale_(trainer.optimizer)
    torch.nn.utils.clip_grad_norm_(found, 12)
    if scaler is None:
        trainer.optimizer.step()
    else:
        scaler.step(trainer.optimizer)
        scaler.update()


# -- the predictor ----------------------------------------------------------------------------------------------------

def sliding_window_slicers(shape: Sequence[int], patch_size: Sequence[int]) -> list[tuple]:
    """Where nnU-Net's sliding window puts its tiles in an image `(C, *shape)`, in its order: `(channels, first axis,
    ...)`, the first axis an index or a slice. It looks at the patch size alone."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    with redirect_stdout(io.StringIO()):  # it says on every CPU that this is no GPU
        tiler = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False)
    tiler.configuration_manager = SimpleNamespace(patch_size=tuple(patch_size))
    return part(tiler, "_internal_get_sliding_window_slicers", "predicting tile by tile")(tuple(shape))


def sliding_window(configuration_manager, labels, device: torch.device,
                   network: torch.nn.Module | None = None) -> nnUNetPredictor:
    """A predictor for preprocessed images, without mirroring: of all that its own `manual_initialization` wants,
    `predict_sliding_window_return_logits` reads these. `network` may be set later, and changed."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    with redirect_stdout(io.StringIO()):  # as above
        tiler = nnUNetPredictor(device=device, allow_tqdm=False, use_mirroring=False,
                                perform_everything_on_device=device.type == "cuda")
    tiler.configuration_manager, tiler.label_manager, tiler.network = configuration_manager, labels, network
    return tiler


class InputLists:
    """To stand before nnU-Net's predictor in a class' bases: a folder to predict is `files_of_cases` of it, and what is
    predicted is kept as `inputs`, the files of each case. nnU-Net offers no way to say which files are images."""

    inputs: Sequence[Sequence[str]] = ()

    def files_of_cases(self, folder: str) -> list[list[str]]:
        raise NotImplementedError

    def before_prediction(self) -> None:
        """Called before the first of the cases is predicted, when `inputs` are known."""

    def require_input_lists(self) -> None:
        """Before anything is predicted: nnU-Net would pass by what it does not know."""
        part(super(), "_manage_input_and_output_lists", "predicting a folder of images")

    def _manage_input_and_output_lists(self, list_of_lists_or_source_folder, *arguments, **options):
        source = list_of_lists_or_source_folder
        if isinstance(source, str):
            source = self.files_of_cases(source)
        found = super()._manage_input_and_output_lists(source, *arguments, **options)
        self.inputs = found[0]
        self.before_prediction()
        return found


def read_variable(variable: str, otherwise: int) -> int:
    """A number of processes, from an environment variable of nnU-Net as its prediction reads it."""
    from nnunetv2.inference import predict_from_raw_data
    return part(predict_from_raw_data, "_getDefaultValue", "the number of processes")(variable, int, otherwise)
