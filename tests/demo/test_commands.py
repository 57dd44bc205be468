"""Kind: a command that the demo shows is not the one whose work it does, or not one that can be typed."""

import importlib
import os
import shlex
from dataclasses import replace
from importlib.metadata import entry_points

import pytest

from nnunetv2_stitch.demo import commands, scores, story
from nnunetv2_stitch.demo.settings import DEMO, environment
from nnunetv2_stitch.demo.shell import command_line, exports


class Called(BaseException):
    """Of the function that does a command's work, with its arguments."""


def recorder(*args, **kwargs):
    raise Called(args, kwargs)


def called(function, *args) -> tuple[tuple, dict]:
    with pytest.raises(Called) as caught:
        function(*args)
    return caught.value.args


def typed(line: str, folder: str, monkeypatch) -> list[str]:
    """The words that a shell makes of a line that was shown."""
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    return shlex.split(os.path.expandvars(line))


def entered(words: list[str], monkeypatch) -> tuple[tuple, dict]:
    """What the command's entry point calls."""
    monkeypatch.setattr("sys.argv", words)
    (command,) = entry_points(group="console_scripts", name=words[0])
    return called(command.load())


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A story in which every model exists by name alone, and what it shows."""
    folder = str(tmp_path / "some demo")
    os.makedirs(folder)
    lines: list[str] = []
    found = {"setup": None, "adapt": {"model_folder": "nnUNet_results/Dataset911_BrainS1T1/adapted", "reached": False},
             "stitch": {"model_folder": "nnUNet_results/Dataset911_BrainS1T1/stitched"},
             "gate": {"model_folder": "nnUNet_results/Dataset911_BrainS1T1/gated"}}
    state = {"from_scratch": False, "settings": DEMO.to_json(), "done": {k: {"result": v} for k, v in found.items()}}
    made = story._Story(folder, state, False, True, lines.append, lambda report: None, "cpu")
    open(made.path(commands.PARTNER_ZIP), "w").close()
    return made, lines


def shown(lines: list[str], folder: str, monkeypatch) -> list[str]:
    (line,) = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    lines.clear()
    return typed(line, folder, monkeypatch)


def test_adapting_is_the_command_that_is_shown(told, monkeypatch):
    from nnunetv2_stitch import training
    from nnunetv2_stitch.exchange.parents import Partner
    from nnunetv2_stitch.parties.model_folder import FINAL
    made, lines = told
    monkeypatch.setattr(training, "adapt_party", recorder, raising=False)

    def request(args: tuple, kwargs: dict):
        partner = args[1] if isinstance(args[1], Partner) else Partner(model=args[1])
        kept = {k: v for k, v in kwargs.items() if k not in ("device", "continue_training", "progress", "say")}
        return training.AdaptRequest(args[0], replace(partner, checkpoint_name=FINAL), **kept)

    ours = request(*called(made._adapt))
    assert ours == request(*entered(shown(lines, made.folder, monkeypatch), monkeypatch))
    assert (ours.epochs, ours.seed) == (DEMO.adapt_epochs, DEMO.seed)


@pytest.mark.parametrize("step", ["stitch", "gate"])
def test_stitching_is_the_command_that_is_shown(step, told, monkeypatch):
    from nnunetv2_stitch import pipeline
    made, lines = told
    monkeypatch.setattr(pipeline, "train_stitch", recorder)

    def request(args: tuple, kwargs: dict):
        other = ("device", "continue_training", "progress", "say", "num_gpus", "only_validation", "only_selection",
                 "sweeps", "prefer", "save_probabilities")
        kept = {k: v for k, v in kwargs.items() if k not in other}
        return replace(pipeline.Request(**{**dict(zip(("dataset_a", "dataset_b"), (*args, None))), **kept}),
                       checkpoint_name="", checkpoint_b=None)

    ours = request(*called(getattr(made, f"_{step}")))
    assert ours == request(*entered(shown(lines, made.folder, monkeypatch), monkeypatch))
    assert ours.gate == (step == "gate") and ours.fit == "direct"


def test_evaluating_is_the_command_that_is_shown(told, monkeypatch):
    from nnunetv2_stitch.exchange import parents
    module = importlib.import_module("nnunetv2_stitch.evaluation.evaluate")
    made, lines = told
    monkeypatch.setattr(module, "evaluate", recorder)
    monkeypatch.setattr(parents, "read_party", lambda path: made._story_partner)
    made._story_partner = type("Model", (), {"path": made.path("nnUNet_results", "stitch_parties", "x", "y__z__2d")})
    args, kwargs = called(made._evaluate)
    words = shown(lines, made.folder, monkeypatch)
    _, theirs = entered(words, monkeypatch)
    assert list(args[0]) == theirs["models"] and [m.name for m in args[0]] == list(map(scores.argument, scores.MODELS))
    assert list(args[1]) == theirs["datasets"] and kwargs["output"] == theirs["output"]


def test_the_two_models_are_compared_by_the_command_that_is_shown(told, monkeypatch):
    from nnunetv2_stitch.exchange import parents
    made, lines = told
    monkeypatch.setattr(parents, "find_parties", recorder)
    args, _ = entered(typed(command_line(commands.info(made.folder), made.folder), made.folder, monkeypatch),
                      monkeypatch)
    assert args[0] == commands.IDS["A"] and args[5][0].model == made.path(commands.PARTNER_ZIP)


@pytest.mark.parametrize("words, module, name", [
    (commands.preprocess("A"), "experiment_planning.plan_and_preprocess_entrypoints", "preprocess"),
    (commands.plan("B"), "experiment_planning.plan_and_preprocess_entrypoints", "extract_fingerprints"),
    (commands.train("B", DEMO), "run.run_training", "run_training")])
def test_stock_commands_that_are_shown_parse(words, module, name, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"nnunetv2.{module}"), name, recorder)
    args, _ = entered(typed(command_line(words, "/demo"), "/demo", monkeypatch), monkeypatch)
    assert args[0] in ([911], [913], "913")
    assert name != "run_training" or args[1:5] == ("2d", "0", DEMO.trainer, "nnUNetPlans")


def test_exporting_is_the_command_that_is_shown(monkeypatch):
    from nnunetv2_stitch.entrypoints import export_party
    args = export_party.build_parser().parse_args(commands.export("B", "/demo")[1:])
    assert (args.d, args.o, args.f, args.no_signature) == ("913", "/demo/B.zip", None, False)


@pytest.mark.parametrize("folder", ["/a/demo", "/a b/it's $HOME", "/x/nnUNet_raw"])
def test_a_shell_makes_of_a_line_the_words_that_it_was_made_of(folder, monkeypatch):
    words = ["nnUNetv2_x", "-m_b", f"{folder}/B.zip", f"stitched={folder}/nnUNet_results/D/a__b__2d@ensemble", "1"]
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    (export, *pairs) = shlex.split(exports(folder))
    assert export == "export" and dict(p.split("=", 1) for p in pairs).items() <= environment(folder).items()
    line = command_line(words, folder)
    assert "$nnUNet_results/D" in line
    outside = {k: v for k, v in os.environ.items() if k.startswith("nnUNet_")}
    import subprocess
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], env=outside, capture_output=True, text=True)
    assert [os.path.abspath(w) if "B.zip" in w else w for w in done.stdout.splitlines()] == words
