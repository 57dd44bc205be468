"""Everything about an adaptation that is checked and decided before anything is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_stitch.bridging.model_properties import output_names
from nnunetv2_stitch.bridging.names import NameMaps
from nnunetv2_stitch.bridging.report import label_remarks
from nnunetv2_stitch.command_lines import flags
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.parents import (
    Partner,
    found_partner,
    lasting_place,
    partner_words,
    read_party,
    require_parent,
)
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import folds_in
from nnunetv2_stitch.parties.datasets import find_dataset
from nnunetv2_stitch.parties.find import find_models, select_model
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder
from nnunetv2_stitch.parties.untrusted_json import printable
from nnunetv2_stitch.selection.retention import TOLERANCE, require_tolerance
from nnunetv2_stitch.training.adapt_output import RECORD
from nnunetv2_stitch.training.adapt_plans import adapted_plans, require_raw, same_data
from nnunetv2_stitch.training.adapt_session import Adaptation
from nnunetv2_stitch.training.adapt_terms import channel_sources, output_sources
from nnunetv2_stitch.training.continuing import going_on
from nnunetv2_stitch.training.job import TrainingJob, check_request, checked
from nnunetv2_stitch.training.line import ALPHAS, HALFWAY, TRAINER
from nnunetv2_stitch.training.member import read_member
from nnunetv2_stitch.training.records import SEED, relative_to_results
from nnunetv2_stitch.training.request import TrainingRequest

PLANS = "nnUNetAdaptedPlans"
EPOCHS, RATE = 100, 1e-3


class LeftOpen(float):
    """A number that nobody asked for, told apart from an equal one that somebody did: for where None has a meaning."""


@dataclass(frozen=True)
class AdaptRequest(TrainingRequest):
    """What the user asked for, one field per flag of nnUNetv2_adapt_party. `dataset`: the host's. `trainer_a` and
    `plans_a`: of the host's own model, which is compared with; `host`: that model itself, where the
    caller has it. `configuration` and `folds`: None for the partner's and for those of the host's own model, or else
    the partner's. `iterations`: None for nnU-Net's. `alpha`: None to choose it by retention."""

    which: ClassVar = (*TrainingRequest.which, "partner", "host")
    otherwise: ClassVar = {"epochs": EPOCHS, "rate": RATE, "tolerance": TOLERANCE, "alpha": HALFWAY, "seed": SEED}

    dataset: str | int
    partner: Partner
    configuration: str | None = None
    folds: Sequence[int | str] | None = None
    trainer_a: str | None = None
    plans_a: str | None = None
    epochs: int | None = None
    iterations: int | None = None
    rate: float | None = None
    plans_name: str = PLANS
    tolerance: float | None = None
    alpha: float | None = LeftOpen(HALFWAY)
    seed: int | None = None
    host: ModelFolder | None = None

    def asked(self) -> dict[str, Any]:
        of_partner = {f: getattr(self.partner, f) for f in OF_PARTNER if getattr(self.partner, f) is not None}
        return {**super().asked(), "partner": {**of_partner, "names": asdict(self.partner.names)}}

    def going_on(self, asked: Mapping[str, Any]) -> AdaptRequest:
        before, names = asked.get("partner", {}), self.partner.names
        maps = {f.name: getattr(names, f.name) or before.get("names", {}).get(f.name, {}) for f in fields(names)}
        partner = replace(self.partner, names=NameMaps(**maps),
                          **{f: before[f] for f in OF_PARTNER if f in before and getattr(self.partner, f) is None})
        return replace(super().going_on(asked), partner=partner)

    def with_parties(self, host: ModelFolder | None, partner: ModelFolder) -> AdaptRequest:
        """The same of models that are found; see `found_partner`."""
        own = {} if host is None else {"trainer_a": host.trainer, "plans_a": host.plans_name}
        return replace(self, partner=found_partner(self.partner, partner), configuration=partner.configuration,
                       host=None, **own)

    def words(self) -> list[str]:
        """Arguments of nnUNetv2_adapt_party that ask for the same, of a partner that is named by its model."""
        alpha = [] if self.alpha == HALFWAY else ["-alpha", "retain" if self.alpha is None else str(self.alpha)]
        return [str(self.dataset), *partner_words([self.partner]), *flags(self, FLAGS), *alpha]


#: what is asked of a partner, beside which it is
OF_PARTNER = ("trainer", "plans", "fold", "checkpoint_name")

#: Flag of every field of AdaptRequest; None where `AdaptRequest.words` says it otherwise, or it has no flag.
FLAGS = {"dataset": None, "partner": None, "configuration": "-c", "folds": "-f", "trainer_a": "-tr_a",
         "plans_a": "-p_a", "epochs": "-epochs", "iterations": "-iterations", "rate": "-lr", "plans_name": "-o_p",
         "tolerance": "-tolerance", "alpha": None, "seed": "-seed", "host": None}


@dataclass(frozen=True, kw_only=True)
class AdaptJob(TrainingJob):
    """A checked request, with the partner. `host`: the host's own model, None where there is none, and `remarks` say
    so."""

    request: AdaptRequest
    partner: ModelFolder
    host: ModelFolder | None
    dataset_json: dict

    @property
    def waits_for_data(self) -> bool:
        return not os.path.isdir(os.path.join(self.preprocessed_folder, self.data_identifier))

    @property
    def source(self) -> ModelFolder:
        return self.partner

    @property
    def written(self) -> list[str]:
        return [*super().written, self.result_folder]

    @property
    def result_folder(self) -> str:
        """The ordinary model folder with the chosen point of the line."""
        return self.folder_of(TRAINER)


def prepare(request: AdaptRequest, continue_training: bool = False, dry_run: bool = False,
            unpack_into: str | None = None) -> AdaptJob:
    """Find the partner's model and the host's data, and check that they go together. Writes nothing but, where the
    model is a zip, the model itself (see `read_party`): training, and its continuation, read it there.

    Args:
        continue_training: what the request leaves open is as it was asked for when the folds under its name were begun.
        dry_run, unpack_into: see `checked` and `read_party`.

    Raises:
        StitchError: anything that stands in the way, in one line.
    """
    check_request(request.plans_name, request.rate)
    if continue_training:
        request, partner = _resumed(request, unpack_into)
    else:
        partner = _find_partner(request, unpack_into)
    request = request.complete()
    require_tolerance(request.tolerance)
    if request.alpha is not None and request.alpha not in ALPHAS:
        raise StitchError(f"-alpha {request.alpha:g} is none of the points that are measured: "
                          f"{', '.join(f'{a:g}' for a in ALPHAS)}; or give retain to have one chosen")
    configuration = partner.configuration
    if request.configuration not in (None, configuration):
        raise StitchError(f"{partner.path} is of configuration {configuration}, not {request.configuration}; leave out "
                          f"-c, or name another model")
    folder = _host_folder(request)
    dataset_json = read_json(os.path.join(folder, "dataset.json"))
    own = ModelFolder(folder, os.path.basename(folder), TRAINER, request.plans_name, configuration, partner.plans,
                      dataset_json, ())
    host, remarks = _own_model(request, own)
    if request.host is None and host is not None and os.path.realpath(host.path) == os.path.realpath(partner.path):
        raise StitchError(f"{host.path} is the host's own model; name the partner's with -m_b, a folder or a zip")
    folds = list(request.folds or (host or partner).folds)
    channels = channel_sources(own.channel_names, partner, request.partner.names)
    outputs = output_sources(own, partner, request.partner.names)
    entries = {}
    for fold in folds:
        wanted = fold if request.partner.fold is None else request.partner.fold
        if request.partner.fold is not None:
            partner.checkpoint_path(wanted)  # says which there are
        entries[str(fold)] = read_member(partner, wanted, printable(partner.dataset_name, 80)).as_start()
    plans = adapted_plans(partner, folder, dataset_json, channels, request.plans_name)
    there = same_data(replace(own, plans=plans))
    if there is None:
        require_raw(own.dataset_name)
    else:
        plans["configurations"][configuration]["data_identifier"] = there
        remarks.append(f"The host's preprocessed data {there} are what the partner's plans say; they are used as they "
                       f"are.")
    remarks += label_remarks(own, partner, request.partner.names,
                             "is unknown to the partner's model and is learned from nothing")
    others = sorted({e["fold"] for f, e in entries.items() if e["fold"] != f})
    if others and partner.dataset_name == own.dataset_name:
        remarks.append(f"Folds begin with fold {', '.join(others)} of a model of the same dataset, which may have been "
                       f"trained on their validation cases.")
    record = Adaptation(model=relative_to_results(lasting_place(partner, unpack_into)), learning_rate=request.rate,
                        seed=request.seed, num_epochs=request.epochs,
                        num_iterations_per_epoch=request.iterations, channels=channels, outputs=outputs,
                        folds=entries, asked=request.asked())
    job = checked(AdaptJob(request=request, partner=partner, host=host, dataset=own.dataset_name,
                           configuration=configuration, plans_name=request.plans_name, dataset_json=dataset_json,
                           folds=folds, record=record, plans=plans, remarks=remarks), continue_training, dry_run)
    if host is not None:  # it is measured last, after the training, beside the folds of earlier commands too
        before = folds_in(job.model_folder, FINAL) if os.path.isdir(job.model_folder) else []
        for fold in (f for f in host.folds if f in {*folds, *before}):
            require_parent(host, fold)
    if os.path.isdir(job.result_folder) and not os.path.isfile(os.path.join(job.result_folder, RECORD)):
        raise StitchError(f"{job.result_folder} is there and was not made by this command ({RECORD} is missing); "
                          f"choose another name with -o_p, or move it away")
    return job


def _host_folder(request: AdaptRequest) -> str:
    return find_dataset(nnUNet_preprocessed, "nnUNet_preprocessed", request.dataset,
                        ", and run nnUNetv2_plan_and_preprocess for it first")


def _resumed(request: AdaptRequest, unpack_into: str | None) -> tuple[AdaptRequest, ModelFolder]:
    """The request as it was begun with a partner of this configuration, or as it is; and the partner."""
    for configuration, before in going_on(request, Adaptation, os.path.basename(_host_folder(request))).items():
        partner = _find_partner(before, unpack_into)
        if partner.configuration == configuration:
            return before, partner
    return request, _find_partner(request, unpack_into)


def _find_partner(request: AdaptRequest, unpack_into: str | None) -> ModelFolder:
    given, name = request.partner, request.partner.checkpoint_name or FINAL
    if (given.dataset is None) == (given.model is None):
        raise StitchError("give party B either as DATASET_B or with -m_b, a model folder or a zip")
    if given.model is not None:
        return read_party(given.model, name, unpack_into)
    return select_model(given.dataset, request.configuration, given.trainer, given.plans, "partner", name)


def _own_model(request: AdaptRequest, own: ModelFolder) -> tuple[ModelFolder | None, list[str]]:
    """The host's own trained model, or why there is none to compare with. Several are for the user to tell apart."""
    try:
        models = [request.host] if request.host is not None else find_models(
            own.dataset_name, configuration=own.configuration, trainer=request.trainer_a, plans=request.plans_a)
    except StitchError as error:
        if request.trainer_a or request.plans_a:
            raise
        return None, [f"The host has no model of its own to compare with ({error}), so alpha is chosen without one."]
    model = models[0] if len(models) == 1 else select_model(
        own.dataset_name, own.configuration, request.trainer_a, request.plans_a)
    if output_names(model) != output_names(own):
        return None, [f"{model.path} answers with other labels than the dataset has, so alpha is chosen without the "
                      f"host's own model."]
    return model, []
