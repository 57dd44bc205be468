"""The speed benchmarks run at the smallest size and say what they measured; timing itself is not tested."""

import functools
import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from stitched_model import read_segmentations


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("forward", "-dim", "2")`: the value and the words of each ratio, of one repetition at size tiny."""
    all_on_device = importlib.import_module("all_on_device")

    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments, "-size", "tiny", "-repeats", "1", "-threads", "1"])
        monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
        importlib.import_module(script).main()
        return {what: float(value) for _, value, what in all_on_device.RESULT.findall(capsys.readouterr().out)}
    return call


@pytest.mark.slow
@pytest.mark.parametrize("script, arguments, ratios", [
    ("forward", ["-precision", "mixed"], 1), ("closed_form_pass", ["-dim", "3"], 1),
    ("double_batched", ["--time_only", "-precision", "mixed"], 3), ("parties", [], 11), ("gated_forward", [], 2),
])
def test_a_script_prints_its_ratios(script, arguments, ratios, run):
    found = run(script, *arguments)
    assert len(found) == ratios and all(value > 0 for value in found.values())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A case that is not large, models of the smallest networks, and the script."""
    script = importlib.import_module("large_case")
    folder = tmp_path_factory.mktemp("large")
    args = script.build_parser().parse_args(["-size", "28", "24", "20", "-network", "tiny", "-patch", "16", "16", "16",
                                             "-threads", "1", "--disable_tta"])
    models, files = script.prepare(str(folder), args)
    return SimpleNamespace(script=script, folder=folder, args=args, models=models, files=files)


@pytest.mark.slow
def test_both_ways_predict_the_case(large):
    """The stock way is the plain ensemble; the averaged pair at one position may change some voxels of it."""
    for way in large.script.WAYS:
        found = large.script.measure(way, large.models, large.files, str(large.folder / way), large.args)
        assert all(found[part] > 0 for part in (*large.script.PARTS, large.script.HOST_MEMORY))
        assert found[large.script.TOTAL] == pytest.approx(sum(found[part] for part in large.script.PARTS))
    voxels = read_segmentations(large.folder)
    ours, stock = voxels["stitched.nii.gz"], voxels["stock.nii.gz"]
    assert ours.shape == stock.shape == (20, 24, 28) and len(set(stock.flat)) > 1


@pytest.mark.slow
def test_nnunet_compile_and_modes(large, monkeypatch):
    """nnU-Net's environment variable wraps the network, which renames its weights."""
    from nnunetv2_stitch.inference.predictor import StitchedPredictor
    plain = large.script.initialised(StitchedPredictor, large.models.stitched, large.args)
    monkeypatch.setenv("nnUNet_compile", "1")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled = large.script.initialised(StitchedPredictor, large.models.stitched, large.args)
    assert isinstance(compiled.network, torch._dynamo.OptimizedModule)
    for mode in ("ensemble", "host"):
        plain.set_mode(mode)
        compiled.set_mode(mode)
        assert compiled.uncompiled.setting == plain.network.setting
        for one, other in zip(compiled.list_of_parameters, plain.list_of_parameters):
            assert one.keys() == other.keys()
    assert compiled.answering_as("partner").mode == "partner"


def test_the_runner_makes_a_table_of_what_is_printed(tmp_path, monkeypatch):
    runner = importlib.import_module("all_on_device")
    printed = "machine: x\nratio 0.985: forward pass, 2d\ngraph breaks 0: mixing weights\nnot a ratio 3: x\n"
    assert runner.rows_of(printed, "python x.py") == ["| ratio: forward pass, 2d | 0.985 | `python x.py` |",
                                                      "| graph breaks: mixing weights | 0 | `python x.py` |"]
    for device in ("cpu", "cuda"):
        for script, *flags in runner.commands(device, 1, 2, None):
            assert (runner.HERE / f"{script}.py").is_file()
            assert script in runner.WITHOUT_DEVICE or flags[flags.index("-device") + 1] == device
    (tmp_path / "broken.py").write_text("import sys; print('ratio 0.5: x'); sys.exit('no ' + sys.argv[1])")
    monkeypatch.setattr(runner, "HERE", tmp_path)
    assert runner.run(["broken", "memory"], 60) == ("ratio 0.5: x\nno memory\n", "failed: no memory")


@pytest.mark.slow
def test_the_runner_ends_what_takes_too_long_with_all_its_processes(tmp_path, monkeypatch):
    runner = importlib.import_module("all_on_device")
    sleeps = "import subprocess, sys; print('ratio 1: y', flush=True); subprocess.run(['sleep', '600'])"
    (tmp_path / "late.py").write_text(sleeps)
    monkeypatch.setattr(runner, "HERE", tmp_path)
    assert runner.run(["late"], 5) == ("ratio 1: y\n", "stopped after 5 s")  # and not 600 s later
