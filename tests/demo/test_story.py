import json
import os
import sys
from types import SimpleNamespace

import pytest

from nnunetv2_stitch.demo import story
from nnunetv2_stitch.demo.capture import captured
from nnunetv2_stitch.demo.parents import shrunk
from nnunetv2_stitch.demo.settings import DemoSettings
from nnunetv2_stitch.demo.state import STATE_FILE, check_folder
from nnunetv2_stitch.demo.story import run_demo
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.errors import StitchError

GATE = story._Story._gate


@pytest.fixture
def stages(monkeypatch):
    """The story with steps that only note that they were run; `stages.fail_at` names one that raises."""
    ran = SimpleNamespace(steps=[], fail_at=None)

    def note(name, value=None):
        def step(self, *key):
            ran.steps.append("_".join([name, *key]))
            if ran.fail_at == ran.steps[-1]:
                raise KeyboardInterrupt
            return value
        return step

    stitched = {"model_folder": "stitched", "position": 3, "position_name": "decoder", "validation": [], "remarks": []}
    for name, value in {"setup": None, "data": None, "preprocess": None, "train": None, "export": None, "info": None,
                        "adapt": {"model_folder": "adapted", "reached": False}, "stitch": stitched,
                        "gate": {**stitched, "model_folder": "gated"}}.items():
        monkeypatch.setattr(story._Story, f"_{name}", note(name, value))

    def evaluate(self):
        ran.steps.append("evaluate")
        story.write_json(self.path("results.json"), {"rows": [{"dice": 0.5}]})

    monkeypatch.setattr(story._Story, "_evaluate", evaluate)
    return ran


AFTER = ["info", "adapt", "stitch", "gate", "evaluate"]
ALL = {False: ["setup", *AFTER],
       True: ["data", "preprocess_A", "train_A", "preprocess_B", "train_B", "export", *AFTER]}


@pytest.mark.parametrize("from_scratch", [False, True])
def test_steps_run_in_order_and_are_announced(from_scratch, tmp_path, stages):
    said = []
    result = run_demo(str(tmp_path / "demo"), from_scratch=from_scratch, say=said.append)
    assert stages.steps == ALL[from_scratch]
    count = len(stages.steps)
    assert [line.split()[0] for line in said if line.startswith("\n[")] == [f"[{i + 1}/{count}]" for i in range(count)]
    assert result.rows == [{"dice": 0.5}] and list(result.seconds) == stages.steps
    assert result.way == story.GATED and result.recommended == str(tmp_path / "demo" / "gated")


def test_an_adapted_partner_as_good_as_the_host_is_recommended_by_itself(tmp_path, stages, monkeypatch):
    monkeypatch.setattr(story._Story, "_adapt", lambda self: {"model_folder": "adapted", "reached": True})
    monkeypatch.setattr(story._Story, "_gate", GATE)
    result = run_demo(str(tmp_path / "demo"))
    assert result.way == story.ADAPTED and result.recommended == str(tmp_path / "demo" / "adapted")


def test_interrupted_demo_goes_on_where_it_was(tmp_path, stages):
    folder = str(tmp_path / "demo")
    stages.fail_at = "train_B"
    with pytest.raises(KeyboardInterrupt):
        run_demo(folder, seed=7, from_scratch=True)
    stages.fail_at, stages.steps = None, []
    run_demo(folder, resume=True)
    assert stages.steps == ["train_B", "export", *AFTER]
    stages.steps = []
    run_demo(folder, resume=True, seed=7, from_scratch=True)
    assert stages.steps == []


def test_folder_in_use_is_refused_and_left_alone(tmp_path, stages):
    (tmp_path / "thesis.txt").write_text("mine")
    for resume, words in ((False, "add --c"), (True, "no demo to go on with")):
        with pytest.raises(StitchError, match=words):
            run_demo(str(tmp_path), resume=resume)
    assert os.listdir(tmp_path) == ["thesis.txt"] and stages.steps == []


def test_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StitchError, match="is a file"):
        check_folder(str(tmp_path / "file"))


def test_going_on_with_other_settings_is_refused(tmp_path, stages):
    folder = str(tmp_path / "demo")
    run_demo(folder, seed=1)
    with pytest.raises(StitchError, match="other settings"):
        run_demo(folder, resume=True, seed=2)
    for other in ({"settings": DemoSettings(batch_size=3, seed=1)}, {"from_scratch": True}):
        with pytest.raises(StitchError, match="other settings"):
            run_demo(folder, resume=True, **other)


def test_a_demo_of_another_version_is_refused(tmp_path, stages):
    folder = tmp_path / "demo"
    run_demo(str(folder))
    state = json.loads((folder / STATE_FILE).read_text())
    del state["story"]  # as the first version wrote it
    (folder / STATE_FILE).write_text(json.dumps(state))
    with pytest.raises(StitchError, match="another version"):
        run_demo(str(folder), resume=True)


def test_resuming_nothing_starts_anew(tmp_path, stages):
    run_demo(str(tmp_path / "demo"), resume=True)
    assert stages.steps == ALL[False]


def test_environment_is_as_before_afterwards(tmp_path, stages, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/mine")
    monkeypatch.delenv("nnUNet_results", raising=False)
    seen = {}
    monkeypatch.setattr(story._Story, "_setup", lambda self: seen.update(os.environ))
    run_demo(str(tmp_path / "demo"))
    assert seen["nnUNet_raw"] == str(tmp_path / "demo" / "nnUNet_raw")
    assert os.environ["nnUNet_raw"] == "/mine" and "nnUNet_results" not in os.environ


def test_environment_is_restored_after_an_error(monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/mine")
    with pytest.raises(ValueError), environment_set({"nnUNet_raw": "/other"}):
        raise ValueError
    assert os.environ["nnUNet_raw"] == "/mine"


def test_settings_survive_json():
    settings = DemoSettings(features=(4, 8), seed=3)
    assert DemoSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_output_goes_to_the_log_and_epochs_to_the_terminal(tmp_path, capsys):
    log = tmp_path / "log.txt"
    with captured(str(log), on_epoch=lambda epoch: print(f"epoch {epoch}")) as tell:
        print("2025-01-01 00:00:00: Epoch 3 ")
        print("Epoch time: 2.0 s")
        print("chatter", file=sys.stderr)
        tell("a word")
    out = capsys.readouterr()
    assert out.out == "epoch 3\na word\n" and out.err == ""
    assert "chatter" in log.read_text() and "Epoch time" in log.read_text()


def test_error_names_the_log(tmp_path):
    log = str(tmp_path / "log.txt")
    with pytest.raises(StitchError, match="ZeroDivisionError.*log.txt"), captured(log):
        1 / 0  # noqa: B018
    assert "Traceback" in open(log).read()
    with pytest.raises(KeyboardInterrupt), captured(log):
        raise KeyboardInterrupt


def test_plans_are_made_small_and_otherwise_kept():
    plans = {"configurations": {"2d": {"batch_size": 2, "patch_size": [128, 112], "spacing": [1.5, 1.5],
                                       "architecture": {"arch_kwargs": {"n_stages": 6, "conv_bias": True}}}}}
    small = shrunk(plans, DemoSettings(features=(4, 8, 8), batch_size=5))["configurations"]["2d"]
    arguments = small["architecture"]["arch_kwargs"]
    assert small["batch_size"] == 5 and small["patch_size"] == [128, 112]
    assert arguments["n_stages"] == 3 and arguments["strides"] == [[1, 1], [2, 2], [2, 2]]
    assert arguments["n_conv_per_stage_decoder"] == [2, 2] and arguments["conv_bias"] is True


def test_state_of_another_program_is_refused(tmp_path):
    (tmp_path / STATE_FILE).write_text("[]")
    with pytest.raises(StitchError, match="no demo"):
        check_folder(str(tmp_path), resume=True)
