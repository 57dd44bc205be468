"""The whole story in one folder: two parties train alone, their models are stitched, and all are tested."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from nnunetv2_stitch.demo.capture import captured
from nnunetv2_stitch.demo.data import PARTIES, blocked_splits, load_party, write_party
from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, DemoSettings, environment
from nnunetv2_stitch.devices import set_up_device
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically, read_json, relative_path, write_json
from nnunetv2_stitch.folders import names_in

STATE_FILE, LOG_FILE = "demo_state.json", "nnunet_output.log"
RESULTS_FILE, TABLE_FILE = "results.json", "demo_table.md"
DICE_FIGURE, OVERLAY_FIGURE = "dice.png", "overlays.png"

CAVEAT = (
    "What this cannot show: each party is one head and its test set a dozen slices of that same head, so own-party "
    "scores are optimistic, differences under about 0.05 mean little by themselves, and nothing here says how the "
    "models would do on other people. Part of the difference between the parties is how the labels were made (surfaces "
    "against SAMSEG). One seed, one fold, short training."
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind. `rows` are those of `scores.evaluate_all`; `seconds` holds the time of each step,
    of this and of earlier runs in the folder."""

    folder: str
    rows: list[dict[str, Any]]
    model_folder: str
    position: int
    position_name: str
    seconds: dict[str, float]
    files: dict[str, str]
    remarks: list[str] = field(default_factory=list)
    caveat: str = CAVEAT


def run_demo(folder: str, device: Any = "cpu", resume: bool = False, progress: bool = True, seed: int | None = None,
             settings: DemoSettings | None = None, say: Callable[[str], None] = lambda text: None) -> DemoResult:
    """Run the demo in `folder`, through nnU-Net's own functions, in this process.

    Args:
        folder: made if it does not exist; holds nnU-Net's three folders, the results and the log.
        device: `cpu`, `cuda` or a torch device.
        resume: go on in a folder in which a demo was interrupted; steps that are done are kept.
        progress: report epochs too, not only steps.
        seed: for the parents and the stitches; default that of `settings`.
        settings: networks and lengths; default `DemoSettings()`, or those of the folder when resuming.
        say: receives lines to show.

    Raises:
        StitchError: the folder is in use, or something went wrong; the line names the log.
    """
    folder = os.path.abspath(folder)
    state = check_folder(folder, resume, seed, settings)
    write_json(os.path.join(folder, STATE_FILE), state)
    variables = environment(folder)
    with environment_set(variables):
        for name in ("raw", "preprocessed", "results"):
            os.makedirs(variables[f"nnUNet_{name}"], exist_ok=True)
        return _Story(folder, state, resume, progress, say, device).tell()


def check_folder(folder: str, resume: bool = False, seed: int | None = None,
                 settings: DemoSettings | None = None) -> dict:
    """Return the demo's state in `folder`, fresh or as it was left; writes nothing.

    Raises:
        StitchError: the folder is in use, or holds a demo of other settings.
    """
    path = os.path.join(folder, STATE_FILE)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise StitchError(f"{folder} is a file; choose another folder with -o")
    if os.path.isdir(folder) and names_in(folder):
        if not resume:
            raise StitchError(f"{folder} is not empty; add --c to go on with the demo in it, or choose another -o")
        state = read_json(path) if os.path.isfile(path) else None
        if not isinstance(state, dict) or not {"settings", "done"} <= set(state):
            raise StitchError(f"{folder} holds no demo to go on with; choose another -o")
        before = DemoSettings.from_json(state["settings"])
        wanted = settings or before
        if (wanted if seed is None else replace(wanted, seed=seed)) != before:
            raise StitchError(f"the demo in {folder} was started with other settings ({path}); --c goes on only with "
                              f"the same seed and settings; choose another -o")
        return state
    settings = settings or DemoSettings()
    settings = settings if seed is None else replace(settings, seed=seed)
    return {"settings": settings.to_json(), "done": {}}


class _Story:
    """The steps in order; each is skipped where `demo_state.json` says that it is done."""

    def __init__(self, folder: str, state: dict, resume: bool, progress: bool, say: Callable[[str], None], device: Any):
        self.folder, self.state, self.resume, self.progress, self.say = folder, state, resume, progress, say
        self.settings = DemoSettings.from_json(state["settings"])
        self.log = self.path(LOG_FILE)
        self.raw = self.path("nnUNet_raw")
        self.predictions = self.path("predictions")
        self.device_name = device
        self.started = time.monotonic()

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def tell(self) -> DemoResult:
        steps: list[tuple[str, str, Callable[[], Any]]] = [("data", "Writing the images of both parties", self._data)]
        for key in PARTIES:
            steps.append((f"preprocess_{key}", f"Planning and preprocessing party {key}",
                          lambda key=key: self._preprocess(key)))
        for key, party in PARTIES.items():
            steps.append((f"train_{key}", f"Training party {key} alone: {party.about}",
                          lambda key=key: self._train(key)))
        steps += [
            ("stitch", "Stitching: A's images, A's model, B's model", self._stitch),
            ("predict", "Predicting the test cases with four models", self._predict),
            ("evaluate", "Evaluating", self._evaluate),
        ]
        self.say(f"nnU-Net's own output goes to {self.log}")
        for number, (name, title, work) in enumerate(steps, 1):
            heading = f"[{number}/{len(steps)}] {title}"
            if name in self.state["done"]:
                self.say(f"{heading}: done before")
                continue
            self.say(f"{heading} ... ({self._clock()})")
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

    def _epochs(self, total: int | None = None) -> Callable[[int], None] | None:
        if not self.progress:
            return None
        of = "" if total is None else f" of {total}"
        return lambda epoch: self.say(f"      epoch {epoch + 1}{of} ({self._clock()})")

    def _detail(self, tell: Callable[[str], None]) -> Callable[[str], None]:
        """What a step says of itself, set in below its heading."""
        return (lambda line: tell(f"      {line} ({self._clock()})")) if self.progress else (lambda line: None)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _data(self) -> None:
        for key in PARTIES:
            write_party(key, self.raw)

    def _preprocess(self, key: str) -> None:
        from nnunetv2_stitch.demo.parents import plan_and_preprocess
        with captured(self.log):
            plan_and_preprocess(PARTIES[key].dataset, self.settings, blocked_splits(load_party(key).names["Tr"]))

    def _train(self, key: str) -> None:
        from nnunetv2_stitch.demo.parents import train_parent
        with captured(self.log, self._epochs()):
            train_parent(PARTIES[key].dataset, self.settings, self._device(), self.settings.seed + ord(key))

    def _stitch(self) -> dict:
        with captured(self.log, self._epochs(self.settings.stitch_epochs)) as tell:
            from nnunetv2_stitch.pipeline import train_stitch
            result = train_stitch(
                PARTIES["A"].dataset, PARTIES["B"].dataset, configuration=CONFIGURATION, folds=[FOLD],
                fit="double_batched", epochs=self.settings.stitch_epochs, iterations=self.settings.stitch_iterations,
                device=self._device(), continue_training=self.resume, progress=False, seed=self.settings.seed,
                say=self._detail(tell))
        return {"model_folder": relative_path(result.model_folder, self.folder), "folds": list(result.folds),
                "position": int(result.position), "position_name": result.position_name, "table": result.table,
                "remarks": list(getattr(result, "remarks", []))}

    def _stitched(self) -> dict:
        return self.state["done"]["stitch"]["result"]

    def _predict(self) -> None:
        with captured(self.log) as tell:
            from nnunetv2_stitch.demo.scores import predict_all
            predict_all(self.path(self._stitched()["model_folder"]), self.raw, self.predictions, self._device(),
                        self._stitched()["folds"], self._detail(tell))

    def _evaluate(self) -> None:
        from nnunetv2_stitch.demo.scores import FOREGROUND, evaluate_all, overlay_panels, reading, table_rows
        from nnunetv2_stitch.evaluation.tables import markdown_table
        from nnunetv2_stitch.figures import dice_by_party, overlays
        with captured(self.log):
            rows = evaluate_all(self.raw, self.predictions)
        flat = [{**row, "cases": list(row["cases"].values())} for row in rows]
        dice_by_party(flat, self.path(DICE_FIGURE))
        overlays(overlay_panels(self.raw, self.predictions, rows), self.path(OVERLAY_FIGURE), FOREGROUND)
        stitched = self._stitched()
        lines = ["# Dice on the test cases", "", markdown_table(table_rows(rows)), "",
                 *(f"{line}\n" for line in reading(rows)),
                 f"Stitched at position {stitched['position']}, {stitched['position_name']}, chosen on A's validation "
                 f"cases. Seed {self.settings.seed}.", "", *(f"{r}\n" for r in stitched["remarks"]), CAVEAT, ""]

        def write(temporary: str) -> None:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write("\n".join(lines))

        atomically(self.path(TABLE_FILE), write)
        write_json(self.path(RESULTS_FILE), {
            "settings": self.settings.to_json(), "device": str(self.device_name), "rows": rows,
            "position": stitched["position"], "position_name": stitched["position_name"],
            "validation": stitched["table"], "remarks": stitched["remarks"], "caveat": CAVEAT,
        })

    def _result(self) -> DemoResult:
        stitched = self._stitched()
        names = {"table": TABLE_FILE, "results": RESULTS_FILE, "dice": DICE_FIGURE, "overlays": OVERLAY_FIGURE,
                 "log": LOG_FILE}
        return DemoResult(
            folder=self.folder, rows=read_json(self.path(RESULTS_FILE))["rows"],
            model_folder=self.path(stitched["model_folder"]), position=stitched["position"],
            position_name=stitched["position_name"], files={k: self.path(v) for k, v in names.items()},
            seconds={k: v["seconds"] for k, v in self.state["done"].items()}, remarks=stitched["remarks"])
