"""The whole story in one folder: two finished models, what may be made of them at A, and all of it tested."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nnunetv2_stitch.demo import commands
from nnunetv2_stitch.demo.capture import captured
from nnunetv2_stitch.demo.commands import PARTNER_ZIP
from nnunetv2_stitch.demo.data import PARTIES, blocked_splits, load_party, write_party
from nnunetv2_stitch.demo.settings import CONFIGURATION, PLANS, DemoSettings, environment
from nnunetv2_stitch.demo.shell import command_line, exports
from nnunetv2_stitch.demo.state import STATE_FILE, check_folder
from nnunetv2_stitch.devices import set_up_device
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.fileio import read_json, relative_path, write_json, write_text
from nnunetv2_stitch.nnunet_internals import threads_for_processes

LOG_FILE = "nnunet_output.log"
RESULTS_FILE, TABLE_FILE, DICE_FIGURE = "results.json", "demo_table.md", "dice.png"

CAVEAT = (
    "What this cannot show: each party is one head and its test set a dozen slices of that same head, so own-party "
    "scores are optimistic, differences under about 0.05 mean little by themselves, and nothing here says how the "
    "models would do on other people. Part of the difference between the parties is how the labels were made (surfaces "
    "against SAMSEG). One seed, one fold, small networks, short training."
)
GATED = "A's model and B's, adapted half-way; a gate chooses for each image"
ADAPTED = "B's model, adapted half-way, by itself"


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind. `rows` are those of `scores.evaluate_models`; `way`: what was recommended, in words;
    `recommended`: its model folder; `seconds`: of each step, of this and of earlier runs in the folder."""

    folder: str
    rows: list[dict[str, Any]]
    way: str
    recommended: str
    seconds: dict[str, float]
    files: dict[str, str]
    remarks: list[str] = field(default_factory=list)
    caveat: str = CAVEAT

    @property
    def is_gated(self) -> bool:
        """Whether it is a stitched ensemble with a gate, not the adapted partner alone."""
        return self.way == GATED


def run_demo(folder: str, device: Any = "cpu", resume: bool = False, progress: bool = True, seed: int | None = None,
             settings: DemoSettings | None = None, from_scratch: bool = False,
             say: Callable[[str], None] = lambda text: None,
             show: Callable[[Any], None] = lambda report: None) -> DemoResult:
    """Run the demo in `folder`, in this process, with the functions that its commands call.

    Args:
        folder: made if it does not exist; holds nnU-Net's three folders, the results and the log.
        device: `cpu`, `cuda` or a torch device.
        resume: go on in a folder in which a demo was interrupted; steps that are done are kept.
        progress: report epochs too, not only steps.
        seed: of all trainings; default that of `settings`.
        settings: networks and lengths; default `DEMO`, or those of the folder when resuming.
        from_scratch: train both parents here instead of taking those that the package ships.
        say: receives lines to show.
        show: receives the compatibility report of both models.

    Raises:
        StitchError: the folder is in use, or something went wrong; the line names the log.
    """
    folder = os.path.abspath(folder)
    state = check_folder(folder, resume, seed, settings, from_scratch)
    write_json(os.path.join(folder, STATE_FILE), state)
    variables = environment(folder)
    with environment_set(variables), threads_for_processes():
        for name in ("raw", "preprocessed", "results"):
            os.makedirs(variables[f"nnUNet_{name}"], exist_ok=True)
        return _Story(folder, state, resume, progress, say, show, device).tell()


class _Story:
    """The steps in order; each is skipped where `demo_state.json` says that it is done."""

    def __init__(self, folder: str, state: dict, resume: bool, progress: bool, say: Callable[[str], None],
                 show: Callable[[Any], None], device: Any):
        self.folder, self.state, self.resume, self.progress = folder, state, resume, progress
        self.say, self.show = say, show
        self.settings = DemoSettings.from_json(state["settings"])
        self.log = self.path(LOG_FILE)
        self.device_name = device
        self.started = time.monotonic()

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def tell(self) -> DemoResult:
        steps: list[tuple[str, str, Callable[[], Any]]] = []
        if self.state["from_scratch"]:
            steps.append(("data", "Writing the images of both parties", self._data))
            for key, party in PARTIES.items():
                steps += [(f"preprocess_{key}", f"Party {key} plans and preprocesses; its network is then made small",
                           lambda key=key: self._preprocess(key)),
                          (f"train_{key}", f"Party {key} trains alone: {party.about}",
                           lambda key=key: self._train(key))]
            steps.append(("export", "B exports its model, without images", self._export))
        else:
            steps.append(("setup", "Hospital A: its images, preprocessed, and its trained model; B has sent B.zip",
                          self._setup))
        steps += [
            ("info", "What differs between the two models, and does it matter?", self._info),
            ("adapt", "B's network trained on with A's images, and half the way back", self._adapt),
            ("stitch", "The paper's way: A's and B's networks stitched at one position", self._stitch),
            ("gate", "What is recommended", self._gate),
            ("evaluate", "The test cases of both, which nothing has touched until now", self._evaluate),
        ]
        self.say(f"nnU-Net's own output goes to {self.log}\nTo repeat a command ($) by hand:\n{exports(self.folder)}")
        for number, (name, title, work) in enumerate(steps, 1):
            heading = f"[{number}/{len(steps)}] {title}"
            if name in self.state["done"]:
                self.say(f"{heading}: done before")
                continue
            self.say(f"\n{heading} ({self._clock()})")
            start = time.monotonic()
            result = work()
            self.state["done"][name] = {"seconds": round(time.monotonic() - start, 1), "result": result}
            write_json(self.path(STATE_FILE), self.state)
        return self._result()

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes}:{seconds:02d}"

    def _device(self):
        import torch
        device = torch.device(self.device_name)
        set_up_device(device)
        return device

    def _command(self, words: list[str]) -> None:
        self.say(f"$ {command_line(words, self.folder)}")

    def _epochs(self, total: int | None = None) -> Callable[[int], None] | None:
        if not self.progress:
            return None
        of = "" if total is None else f" of {total}"
        return lambda epoch: self.say(f"      epoch {epoch + 1}{of} ({self._clock()})")

    def _detail(self, tell: Callable[[str], None]) -> Callable[[str], None]:
        """What a step says of itself, set in below its heading."""
        return (lambda line: tell(f"      {line} ({self._clock()})")) if self.progress else (lambda line: None)

    def _done(self, step: str) -> Any:
        return self.state["done"][step]["result"]

    # -- the parents ----------------------------------------------------------------------------------------------

    def _setup(self) -> None:
        from nnunetv2_stitch.demo.shipped import install_host, receive_partner
        write_party("A", self.path("nnUNet_raw"))
        write_party("B", self.path("nnUNet_raw"), ["Ts"])  # to test at the end; B's training images stay at B
        self._command(commands.preprocess("A"))
        with captured(self.log):
            install_host(self.path("nnUNet_results"), self.path("nnUNet_preprocessed"))
        receive_partner(self.folder)

    def _data(self) -> None:
        for key in PARTIES:
            write_party(key, self.path("nnUNet_raw"))

    def _preprocess(self, key: str) -> None:
        from nnunetv2_stitch.demo.parents import plan_and_preprocess
        self._command(commands.plan(key))
        with captured(self.log):
            plan_and_preprocess(PARTIES[key].dataset, self.settings, blocked_splits(load_party(key).names["Tr"]))

    def _train(self, key: str) -> None:
        from nnunetv2_stitch.demo.parents import train_parent
        self._command(commands.train(key, self.settings))
        with captured(self.log, self._epochs()):
            train_parent(PARTIES[key].dataset, self.settings, self._device(), self.settings.seed + ord(key))

    def _export(self) -> None:
        from nnunetv2_stitch.exchange.export import export_party
        from nnunetv2_stitch.parties.model_folder import read_model_folder
        self._command(commands.export("B", self.folder))
        with captured(self.log):
            export_party(read_model_folder(self._model("B")), self.path(PARTNER_ZIP))

    def _model(self, key: str) -> str:
        """Folder of a parent that was trained or unpacked in nnUNet_results."""
        return self.path("nnUNet_results", PARTIES[key].dataset, f"{self.settings.trainer}__{PLANS}__{CONFIGURATION}")

    # -- at A, with both models -----------------------------------------------------------------------------------

    def _info(self) -> None:
        from nnunetv2_stitch.bridging.report import compare_parties
        from nnunetv2_stitch.exchange.parents import read_party
        from nnunetv2_stitch.parties.model_folder import read_model_folder
        self._command(commands.info(self.folder))
        self.show(compare_parties(read_model_folder(self._model("A")), read_party(self.path(PARTNER_ZIP))))

    def _adapt(self) -> dict:
        from nnunetv2_stitch.training import adapt_party
        self._command(commands.adapt(self.folder, self.settings))
        with captured(self.log, self._epochs(self.settings.adapt_epochs)) as tell:
            result = adapt_party(
                commands.IDS["A"], self.path(PARTNER_ZIP), epochs=self.settings.adapt_epochs,
                iterations=self.settings.adapt_iterations, seed=self.settings.seed, device=self._device(),
                continue_training=self.resume, progress=False, say=self._detail(tell))
        own, adapted = result.host_alone, result.mean[result.alpha]
        self.say(f"On A's validation cases: adapted half-way {adapted:.3f}, A's own model {own:.3f}. " + (
            "As good as A's own: it is recommended by itself." if result.reached else
            "A's own model is better: both are recommended, with a gate that chooses for each image."))
        return {"model_folder": relative_path(result.model_folder, self.folder), "reached": result.reached,
                "validation": {"A alone": own, "adapted": adapted}}

    def _train_stitch(self, partner: str, **request) -> dict:
        with captured(self.log) as tell:
            from nnunetv2_stitch.pipeline import train_stitch
            result = train_stitch(
                commands.IDS["A"], model_b=partner, fit="direct", positions=commands.POSITIONS,
                iterations=self.settings.stitch_iterations, seed=self.settings.seed, device=self._device(),
                continue_training=self.resume, progress=False, say=self._detail(tell), **request)
        for remark in result.remarks:
            self.say(remark)
        return {"model_folder": relative_path(result.model_folder, self.folder), "position": result.position,
                "position_name": result.position_name, "validation": result.table, "remarks": result.remarks}

    def _stitch(self) -> dict:
        self._command(commands.stitch(self.folder, self.settings))
        return self._train_stitch(self.path(PARTNER_ZIP), plans_name=commands.PLAIN_PLANS)

    def _gate(self) -> dict | None:
        if self._done("adapt")["reached"]:
            self.say(f"{ADAPTED}. Nothing more to do.")
            return None
        adapted = self.path(self._done("adapt")["model_folder"])
        self._command(commands.gate(adapted, self.settings))
        return self._train_stitch(adapted, gate=True)

    # -- on test cases --------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        from nnunetv2_stitch.demo.scores import evaluate_models, figure_rows, models_of, reading, table_rows
        from nnunetv2_stitch.evaluation.tables import markdown_table
        from nnunetv2_stitch.exchange.parents import read_party
        from nnunetv2_stitch.figures import dice_by_party
        models = models_of(self._model("A"), read_party(self.path(PARTNER_ZIP)).path,
                           self.path(self._done("stitch")["model_folder"]), self._recommended())
        self._command(commands.evaluate(self.folder, models))
        with captured(self.log) as tell:
            rows = evaluate_models(models, self.folder, self._device(), self.resume, self._detail(tell))
        dice_by_party(figure_rows(rows), self.path(DICE_FIGURE))
        lines = ["# Dice on the test cases", "", markdown_table(table_rows(rows, self._way())), "",
                 *(f"{line}\n" for line in (*reading(rows), *self._remarks(), CAVEAT))]
        write_text(self.path(TABLE_FILE), "\n".join(lines))
        write_json(self.path(RESULTS_FILE), {
            "settings": self.settings.to_json(), "from_scratch": self.state["from_scratch"],
            "device": str(self.device_name), "rows": rows, "way": self._way(), "remarks": self._remarks(),
            "validation": {step: (self._done(step) or {}).get("validation") for step in ("adapt", "stitch", "gate")},
            "caveat": CAVEAT})

    def _way(self) -> str:
        return ADAPTED if self._done("gate") is None else GATED

    def _recommended(self) -> str:
        return self.path((self._done("gate") or self._done("adapt"))["model_folder"])

    def _remarks(self) -> list[str]:
        stitched = self._done("stitch")
        return [f"Stitched at position {stitched['position']}, {stitched['position_name']}, chosen on A's validation "
                f"cases.", *stitched["remarks"]]

    def _result(self) -> DemoResult:
        names = {"table": TABLE_FILE, "results": RESULTS_FILE, "dice": DICE_FIGURE, "log": LOG_FILE,
                 "report": os.path.join(commands.EVALUATION, "report.html")}
        return DemoResult(
            folder=self.folder, rows=read_json(self.path(RESULTS_FILE))["rows"], way=self._way(),
            recommended=self._recommended(), files={k: self.path(v) for k, v in names.items()},
            seconds={k: v["seconds"] for k, v in self.state["done"].items()}, remarks=self._remarks())
