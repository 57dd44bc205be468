"""`import nnunetv2_stitch` costs nothing and offers the jobs of the commands, with the commands' own defaults."""

import inspect
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import torch
from evaluated_files import build

import nnunetv2_stitch as ns
from nnunetv2_stitch.devices import find_device
from nnunetv2_stitch.merging.run import MergeRequest
from nnunetv2_stitch.pipeline import Request

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = ["stitch", "compare", "evaluate", "distill", "adapt", "merge", "StitchedPredictor", "StitchedEnsemble",
          "features", "match_layers", "StitchError", "__version__"]
# Parameter -> name of the flag's value where the two differ.
NAMES = {"folds": "f", "fold": "f", "trainer_a": "tr_a", "trainer_b": "tr_b", "plans_a": "p_a", "plans_b": "p_b",
         "fold_b": "f_b", "checkpoint_name": "chk", "checkpoint_a": "chk_a", "checkpoint_b": "chk_b", "model_a": "m_a",
         "model_b": "m_b", "plans_name": "o_p", "tta": "disable_tta", "progress": "disable_progress_bar",
         "only_validation": "val", "only_selection": "select", "save_probabilities": "npz", "folder": "o",
         "test_sets": "datasets", "resume": "continue_training", "output": "output", "dataset_json": "djfile",
         "rate": "lr", "teacher": "m", "models": "models", "dataset": "d"}
TURNED = ("tta", "progress")  # the flag switches off what the parameter switches on
NOT_FLAGS = {"say", "validate", "names", "more", "dataset_a", "dataset_b", "partner"}
# Command, what it needs, names of its own, and its flags that no parameter stands for.
COMMANDS = {
    "stitch": ("train_stitch", ["A", "B"], {}, {"dry_run"}),
    "compare": ("compare_stitched", ["A", "B"], {}, {"list_rows"}),
    "evaluate": ("evaluate_stitched", [], {"output": "o"}, {"comparison", "notes"}),
    "distill": ("distill_stitched", ["-m", "M", "-d", "A"], {}, {"dry_run"}),
    "adapt": ("adapt_party", ["A", "B"], {"dataset": "parties"}, {"tr_b", "p_b", "f_b", "chk_b", "m_b", "dry_run"}),
    "merge": ("merge_party", ["-m", "M", "N", "-d", "A", "-c", "2d", "-f", "0", "-o_p", "P"],
              {"rate": "lr", "steps": "search_steps", "models": "m", "name": "o_p", "plans_name": "plans_name"},
              {"disable_progress_bar"}),
}
ALWAYS = {"verbose", "help", "parties", "label_map", "channel_map"}  # of partners: `names`, `Partner`


def test_importing_the_package_imports_nothing_heavy_and_takes_no_time():
    """The processor's time, of which 0.2 s are a hundred times as much as it takes."""
    code = "import sys, time; start = time.process_time(); import nnunetv2_stitch as ns; ns.__version__; dir(ns); " \
           "print(time.process_time() - start, *sorted(m for m in sys.modules if m.partition('.')[0] in " \
           "('torch', 'nnunetv2', 'numpy', 'matplotlib', 'nnunetv2_stitch')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *found = done.stdout.split()
    assert found == ["nnunetv2_stitch", "nnunetv2_stitch._checkout"]
    assert float(seconds) < 0.2


def test_every_public_name_exists_and_others_do_not():
    assert sorted(ns.__all__) == sorted(PUBLIC) and set(PUBLIC) <= set(dir(ns))
    for name in PUBLIC:
        assert isinstance(getattr(ns, name), str) or inspect.getdoc(getattr(ns, name))
    with pytest.raises(AttributeError, match="has no attribute 'stich'"):
        _ = ns.stich


def test_the_reference_page_is_what_the_docstrings_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    made = import_module("make_api")
    assert made.PAGE.read_text() == made.page(), "run python docs/make_api.py"
    assert [line[4:-1] for line in made.page().splitlines() if line.startswith("## `")] == ns.__all__
    for name, methods in made.METHODS.items():
        assert all(inspect.getdoc(vars(base).get(m)) for m in methods for base in getattr(ns, name).__mro__
                   if m in vars(base) and base.__module__.startswith("nnunetv2_stitch"))


def flags(name: str):
    command, needed, own, beside = COMMANDS[name]
    parser = import_module(f"nnunetv2_stitch.entrypoints.{command}").build_parser()
    return parser, vars(parser.parse_args(needed)), {**NAMES, **own}, beside


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_is_a_flag_with_its_default_and_every_flag_a_parameter(name):
    parser, values, names, beside = flags(name)
    helps = {a.dest: a.help or "" for a in parser._actions}
    parameters = inspect.signature(getattr(ns, name)).parameters
    found = set()
    for p in parameters.values():
        if p.name in NOT_FLAGS:
            continue
        dest = names.get(p.name, p.name)
        dest = dest if dest in values else p.name
        assert dest in values, f"no flag of {COMMANDS[name][0]} is {p.name}"
        found.add(dest)
        if p.default is p.empty or p.name == "device":  # auto knows mps
            continue
        default = values[dest]
        if p.name in TURNED:
            default = not default
        elif isinstance(default, list) and not isinstance(p.default, (list, tuple)):
            default = default[0] if default else None
        if default is None and p.default not in (None, ()):  # then the flag's help says what is taken
            assert f"Default: {p.default:g}" in helps[dest] if isinstance(p.default, float) else \
                f"Default: {p.default}" in helps[dest] or f"Default: {p.default}." in helps[dest], p.name
        elif default in ("on", "off"):
            assert p.default == (default == "on")
        else:
            assert p.default == default or (default is None and p.default == ()), p.name
    assert set(values) - found - ALWAYS <= beside


def test_the_request_of_the_function_is_that_of_the_command():
    from nnunetv2_stitch.entrypoints.train_stitch import request_of
    _, values, _, _ = flags("stitch")
    arguments = type("Arguments", (), {**values, "parties": ["A", "B"]})
    parameters = inspect.signature(ns.stitch).parameters
    asked = {f.name: parameters[f.name].default for f in fields(Request) if f.name in parameters}
    asked.update(dataset_a="A", dataset_b="B", rule="2")
    assert Request(**asked) == Request(**request_of(arguments))
    assert {f.name for f in fields(Request)} - set(asked) == {"comparison"}


@pytest.mark.parametrize(("name", "job"), [("stitch", "train_stitch"), ("compare", "run_comparison"),
                                           ("distill", "run_distillation"), ("adapt", "adapt_party"),
                                           ("merge", "merge_guided"), ("evaluate", "run_evaluation")])
def test_every_keyword_arrives_under_its_own_name(name, job, monkeypatch, tmp_path):
    """Of all keywords at once, each with a value of its own; the jobs themselves are tested where they are."""
    seen = {}
    module = import_module(getattr(ns, name).__module__)
    real = inspect.signature(getattr(module, job))

    class Arrived(Exception):
        pass

    def record(*arguments, **keywords):
        bound = real.bind(*arguments, **keywords).arguments
        seen.update(bound.pop("request", {}) if isinstance(bound.get("request"), dict) else {})
        seen.update(bound)
        raise Arrived

    monkeypatch.setattr(module, job, record)
    special = {"device": "cpu", "trust": False, "more": ["C"], "output": str(tmp_path), "dataset_json": None,
               "models": {}, "datasets": {}, "unseen": {}, "tta": "tta", "rule": "loo"}
    given = {p: special.get(p, f"value of {p}") for p in inspect.signature(getattr(ns, name)).parameters}
    with pytest.raises(Arrived):
        getattr(ns, name)(**given)
    if isinstance(seen.get("request"), MergeRequest):
        seen.update(vars(seen.pop("request")))
    assert seen.pop("device") in (torch.device("cpu"), None)
    renamed = {"tta": "mirroring" if name == "evaluate" else "tta", "dataset_json": "labels"}
    left = {"trust", "device"} if name == "merge" else {"trust", "device", "worst", "models", "datasets"}
    left |= {"unseen"} if name == "evaluate" else set()
    for key, value in given.items():
        if key not in left:
            found = seen[renamed.get(key, key)]
            assert found == value or found == (tuple(value) if isinstance(value, list) else value), key


@pytest.mark.parametrize(("call", "message"), [
    (lambda: ns.stitch("A", "B", epoch=3), "unexpected keyword argument 'epoch'"),
    (lambda: ns.merge(["A", "B"], "A", "2d", 0, "P", trusted=True), "unexpected keyword argument 'trusted'"),
])
def test_an_unknown_field_is_one_clear_line(call, message):
    with pytest.raises(TypeError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_auto_takes_what_is_there_and_a_device_that_is_not_there_is_refused(monkeypatch):
    for cuda, mps, kind in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert find_device().type == find_device("auto").type == kind
    assert find_device(torch.device("cpu")) == find_device("cpu") == torch.device("cpu")
    for device in ("cuda", "cuda:1", torch.device("cuda", 0), "mps", "tpu", 7.5):
        with pytest.raises(ns.StitchError, match="use device cpu, or leave device out"):
            find_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1").index == 1
    with pytest.raises(ns.StitchError, match="torch sees 2 GPUs, counted from 0"):
        find_device("cuda:2")
    for call in (lambda: ns.stitch("A", "B", device="tpu"), lambda: ns.adapt("A", "b.zip", device="tpu")):
        with pytest.raises(ns.StitchError, match="'tpu' is no device of torch"):
            call()


def test_evaluate_measures_predictions_made_elsewhere_and_writes_where_it_is_told(tmp_path):
    files = build(tmp_path / "in", cases=3)
    models = {name: str(files.model(name)) for name in ("host", "joined")}
    datasets = {name: str(files.party(name)) for name in "AB"}
    comparison = ns.evaluate(models, datasets, progress=False)
    assert {(s.model, s.party) for s in comparison.summaries} == {(m, d) for m in models for d in datasets}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    again = ns.evaluate(models, datasets, output=str(tmp_path / "out"), progress=False)
    assert again.summaries == comparison.summaries
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_stitch_is_the_command(stitched2d, copy_world, nnunet_env):
    world = nnunet_env(copy_world(stitched2d.world))
    result = ns.stitch(world.host.dataset, world.partner.dataset, position=20, only_selection=True, progress=False)
    assert result.position == 20 and Path(result.model_folder).is_relative_to(world.root)


def test_a_model_that_must_be_predicted_with_needs_a_place(world2d):
    with pytest.raises(ns.StitchError, match="give output=FOLDER"):
        ns.evaluate({"A": str(world2d.model(world2d.host))}, {"A": str(world2d.raw / world2d.host.dataset)})


@pytest.mark.parametrize("command, names", [
    ("adapt_party", {"rate": "lr"}), ("train_party", {"rate": "lr", "checkpoint_name": "chk"}),
    ("distill_stitched", {})])
def test_help_names_the_default_that_the_library_takes(command, names):
    """The kind: a default that is written down twice, once where it is taken and once where it is told."""
    from nnunetv2_stitch.distillation import DistillRequest
    from nnunetv2_stitch.training import AdaptRequest, FromMergedRequest
    kinds = {"adapt_party": AdaptRequest, "train_party": FromMergedRequest, "distill_stitched": DistillRequest}
    parser = import_module(f"nnunetv2_stitch.entrypoints.{command}").build_parser()
    helps = {a.dest: a.help or "" for a in parser._actions}
    taken = kinds[command].otherwise
    assert taken and {k: helps[names.get(k, k)].rpartition("Default: ")[2] for k in taken} == {
        k: str(v) for k, v in taken.items()}
