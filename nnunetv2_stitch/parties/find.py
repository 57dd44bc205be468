"""Model folders: the ones that a command means, among all that are in nnUNet_results."""

from __future__ import annotations

import os

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.folders import model_folders_in, names_in
from nnunetv2_stitch.parties.datasets import matching
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder, read_model_folder

FLAGS = {"host": ("-c", "-tr_a", "-p_a"), "partner": ("-c", "-tr_b", "-p_b")}


def dataset_folder(dataset: int | str, results: str | None = None) -> str:
    """The folder of a dataset, given as id (911, '911') or name ('Dataset911_X'), in `results` or nnUNet_results.

    Looks nowhere else: a partner's model usually comes without raw or preprocessed data, and the name that counts is
    the one its models are under.

    Raises:
        StitchError: nnUNet_results is not set or missing, no such dataset, or two datasets of one id.
    """
    if results is None:
        if not nnUNet_results.is_set():
            raise StitchError("environment variable nnUNet_results is not set; set it to the folder that holds the "
                              "trained models of both parties")
        results = str(nnUNet_results)
    if not os.path.isdir(results):
        raise StitchError(f"nnUNet_results {results} does not exist; set nnUNet_results to the folder that holds the "
                          f"trained models of both parties")
    folders = [n for n in names_in(results) if os.path.isdir(os.path.join(results, n))]
    there = [n for n in folders if n.startswith("Dataset")]
    found = matching(there, dataset)
    if len(found) > 1:
        raise StitchError(f"dataset id {dataset} is taken twice in {results}: {', '.join(found)}; give the full name")
    if not found:
        raise StitchError(f"no models of dataset {dataset} in {results}; datasets there: {', '.join(there) or 'none'}; "
                          f"give one of these by id or name, or install the model first "
                          f"(nnUNetv2_install_party)")
    return os.path.join(results, found[0])


def find_models(dataset: int | str, checkpoint_name: str = FINAL, *, configuration: str | None = None,
                trainer: str | None = None, plans: str | None = None) -> list[ModelFolder]:
    """The trained models of a dataset that fit what is given, in order of their names. Left out are stitched ensembles
    and, unless `plans` names them, what was only trained for a comparison. Merged models count where there is no other.

    Args:
        dataset: by id or name, in nnUNet_results.
        checkpoint_name: what a fold must hold to count as trained.
        configuration, trainer, plans: by name; None for any.

    Raises:
        StitchError: see `dataset_folder`; no such model is trained; or a model's files are unreadable.
    """
    folder = dataset_folder(dataset)
    wanted = (trainer, plans, configuration)
    found, unfinished = [], []
    for path in model_folders_in(folder):
        if any(w is not None and w != part for w, part in zip(wanted, os.path.basename(path).split("__"))):
            continue
        model = read_model_folder(path, checkpoint_name)
        if not model.is_stitched and (plans is not None or not model.is_baseline):
            (found if model.folds else unfinished).append(model)
    if not found:
        asked = "__".join(w or "*" for w in wanted)
        which = f" that fits {asked}" if any(wanted) else ""
        rest = ", ".join(m.identifier for m in unfinished)
        hint = f"{rest} has no fold with {checkpoint_name}: finish its training or choose with -chk" if rest else \
            f"there are: {', '.join(map(os.path.basename, model_folders_in(folder))) or 'none'}"
        raise StitchError(f"no trained model{which} in {folder}; {hint}")
    return [m for m in found if not m.is_merged] or found


def select_model(dataset: int | str, configuration: str | None = None, trainer: str | None = None,
                 plans: str | None = None, role: str = "host", checkpoint_name: str = FINAL) -> ModelFolder:
    """The one model of a dataset that fits.

    Args:
        dataset, configuration, trainer, plans, checkpoint_name: see `find_models`.
        role: 'host' or 'partner', for the flags named in messages.

    Raises:
        StitchError: none, several, or only a cascade.
    """
    models = _without_cascades(find_models(dataset, checkpoint_name, configuration=configuration, trainer=trainer,
                                           plans=plans))
    if len(models) > 1:
        raise _several(role, models)
    return models[0]


def find_pair(dataset_a: int | str, dataset_b: int | str, configuration: str | None = None,
              trainer_a: str | None = None, trainer_b: str | None = None, plans_a: str | None = None,
              plans_b: str | None = None, checkpoint_name: str = FINAL,
              checkpoint_b: str | None = None) -> tuple[ModelFolder, ModelFolder]:
    """Host and partner: the one configuration that both have, and within it the trainer and plans that both have.

    Args:
        dataset_a, dataset_b: the host's and the partner's, by id or name.
        configuration: None for the one in common.
        trainer_a, trainer_b, plans_a, plans_b: by name; None for those in common, or the only ones.
        checkpoint_name: what a fold must hold to count as trained.
        checkpoint_b: the partner's, where it is not the host's.

    Raises:
        StitchError: a party without a model, no configuration in common, or several possibilities; then they are
            listed with the flags that choose.
    """
    hosts = find_models(dataset_a, checkpoint_name, configuration=configuration, trainer=trainer_a,
                        plans=plans_a)
    partners = find_models(dataset_b, checkpoint_b or checkpoint_name, configuration=configuration,
                           trainer=trainer_b, plans=plans_b)
    hosts, partners = _without_cascades(hosts), _without_cascades(partners)
    common = sorted({m.configuration for m in hosts} & {m.configuration for m in partners})
    if not common:
        raise StitchError(
            f"{_configurations(hosts)} with {_configurations(partners)}: configurations differ between "
            f"{hosts[0].dataset_name} and {partners[0].dataset_name}; train one configuration for both parties")
    if len(common) > 1:
        raise StitchError(f"{hosts[0].dataset_name} and {partners[0].dataset_name} both have {', '.join(common)}; "
                          f"choose with -c")
    hosts, partners = ([m for m in models if m.configuration == common[0]] for models in (hosts, partners))
    shared = sorted({m.identifier for m in hosts} & {m.identifier for m in partners})
    if len(shared) == 1:
        hosts, partners = ([m for m in models if m.identifier == shared[0]] for models in (hosts, partners))
    for role, models in (("host", hosts), ("partner", partners)):
        if len(models) > 1:
            raise _several(role, models)
    return hosts[0], partners[0]


def _without_cascades(models: list[ModelFolder]) -> list[ModelFolder]:
    """Raises StitchError if nothing else is left."""
    left = [m for m in models if not m.is_cascaded]
    if not left:
        raise StitchError(f"{models[0].path} is the second stage of a cascade, which cannot be stitched; use 2d, "
                          f"3d_lowres or 3d_fullres (-c)")
    return left


def _configurations(models: list[ModelFolder]) -> str:
    return " or ".join(sorted({m.configuration for m in models}))


def _several(role: str, models: list[ModelFolder]) -> StitchError:
    """Names only the flags in which the models differ."""
    properties = ("configuration", "trainer", "plans_name")
    flags = [flag for flag, name in zip(FLAGS[role], properties) if len({getattr(m, name) for m in models}) > 1]
    return StitchError(f"{models[0].dataset_name} ({role}) has several models: "
                       f"{', '.join(m.identifier for m in models)}; choose with {' and '.join(flags)}")
