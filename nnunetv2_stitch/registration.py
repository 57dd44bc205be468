"""How nnU-Net comes to know our trainers: the folder for `nnUNet_extTrainer`, or one small file inside nnU-Net.

Nothing here imports nnU-Net or torch: folders are found by their import specs, which works for editable installs too.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_stitch.errors import StitchError

MODULE_NAME = "nnUNetTrainerStitchRegistered"

# Tells our file from one that somebody else gave the same name.
_MARKER = "# written by nnUNetv2_stitch_trainers --register"

# nnU-Net imports this file whenever it looks for any trainer, and asks it for the wanted name with hasattr. So it may
# never fail at import, and it loads our package only when one of our trainers is the one looked for. It goes by the
# trainers' names and not by a list, which an update of the package would outdate.
_SOURCE = f'''{_MARKER}
"""Lets nnU-Net find the trainers of nnunetv2-stitch. Remove it with `nnUNetv2_stitch_trainers --unregister`.

Once nnunetv2-stitch is uninstalled this file does nothing, and can be deleted.
"""

import importlib
import importlib.util


def __getattr__(name):
    if name.startswith(("nnUNetTrainerStitch", "nnUNetTrainerFromMerged", "nnUNetTrainerAdapted")):
        module = "nnunetv2_stitch.trainers." + name
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError as error:
            if error.name not in ("nnunetv2_stitch", "nnunetv2_stitch.trainers"):
                raise
            spec = None
        if spec is not None:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
'''


def trainers_folder() -> Path:
    """Return the folder with our trainer classes, as installed: what `nnUNet_extTrainer` is to name.

    Raises:
        StitchError: the package was not installed completely.
    """
    folder = _folder_of("nnunetv2_stitch.trainers")
    if folder is None:
        raise StitchError("nnunetv2_stitch.trainers is not installed; install the package again with pip")
    return folder


def registration_file() -> Path:
    """Return the path that `register` writes, inside the nnU-Net in use, whether or not it is there.

    Raises:
        StitchError: there is no nnU-Net v2, or not of a shape that we know.
    """
    nnunet = _folder_of("nnunetv2")
    if nnunet is None:
        raise StitchError("nnunetv2 is not installed in this Python environment; install it with pip")
    folder = nnunet / "training" / "nnUNetTrainer"
    if not (folder / "nnUNetTrainer.py").is_file():
        raise StitchError(f"{folder} holds no nnUNetTrainer.py, so nnU-Net does not look for trainers there")
    return folder / f"{MODULE_NAME}.py"


def register() -> Path:
    """Write the file that lets stock nnU-Net commands find our trainers. Doing it twice does no harm.

    Returns:
        The path of the file.

    Raises:
        StitchError: no permission, no nnU-Net, or a file of that name that is not ours.
    """
    file = registration_file()
    _refuse_foreign(file)
    # The name does not end in .py: an nnU-Net that scans the folder right now must not import half a file.
    temporary = file.with_name(f".{MODULE_NAME}.{os.getpid()}.tmp")
    with _file_errors("write", file):
        try:
            temporary.write_text(_SOURCE, encoding="utf-8")
            # Whoever may read nnU-Net must be able to read this file: an unreadable one would break every lookup.
            shutil.copymode(file.with_name("nnUNetTrainer.py"), temporary)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    return file


def unregister() -> Path | None:
    """Remove what `register` wrote, and the bytecode that Python made of it.

    Returns:
        The path of the removed file, or None when there was none.

    Raises:
        StitchError: no permission, no nnU-Net, or a file of that name that is not ours.
    """
    file = registration_file()
    _refuse_foreign(file)
    found = file.exists()
    with _file_errors("remove", file):
        file.unlink(missing_ok=True)
        # Bytecode of every Python version and optimisation level that ran it.
        for compiled in Path(importlib.util.cache_from_source(str(file))).parent.glob(f"{MODULE_NAME}.*.pyc"):
            compiled.unlink(missing_ok=True)
    return file if found else None


def _folder_of(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(os.path.abspath(next(iter(spec.submodule_search_locations))))


def _refuse_foreign(file: Path) -> None:
    with _file_errors("read", file):
        foreign = file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(_MARKER)
    if foreign:
        raise StitchError(f"{file} was not written by --register; look at it, and move it away if it is not needed")


@contextmanager
def _file_errors(verb: str, file: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise StitchError(
            f"no permission to {verb} {file}; run this as the owner of that nnU-Net, or set nnUNet_extTrainer instead: "
            'export nnUNet_extTrainer="$(nnUNetv2_stitch_trainers)"'
        ) from error
    except OSError as error:
        raise StitchError(f"cannot {verb} {file}: {error.strerror or error}") from error
