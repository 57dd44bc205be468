"""JSON files that name code, absurd sizes or other folders: one line, code 2, nothing left, and no memory taken."""

import json
import random
import resource

import pytest

CALLABLES = ("os.system", "posix.system", "subprocess.Popen", "builtins.eval", "torch.load", "torch.nn.Module",
             "torch.nn.modules.os.system", "system", "join", "__import__", "../../evil", "a" * 5000, 7, None,
             ["os.system"], {"x": "os.system"})


def architecture(key):
    def change(plans, value):
        described = plans["configurations"]["2d"]["architecture"]
        (described if key == "network_class_name" else described["arch_kwargs"])[key] = value
    return change


def configuration(key):
    return lambda plans, value: plans["configurations"]["2d"].update({key: value})


def top(key):
    return lambda plans, value: plans.update({key: value})


PLACES = {
    **{key: architecture(key) for key in ("network_class_name", "conv_op", "norm_op", "nonlin", "dropout_op")},
    **{key: configuration(key) for key in ("preprocessor_name", "resampling_fn_data", "resampling_fn_seg",
                                           "resampling_fn_probabilities")},
    "normalization_schemes": lambda p, value: p["configurations"]["2d"].update(normalization_schemes=[value]),
    **{key: top(key) for key in ("image_reader_writer", "label_manager")},
}


@pytest.mark.parametrize("place", PLACES)
def test_callables_in_every_place_that_nnunet_looks_up(place, bad_json):
    for value in CALLABLES:
        if value is not None or place not in MAY_BE_NULL:
            said = bad_json("plans.json", lambda plans, value=value: PLACES[place](plans, value))
            assert "plans" in said, (place, value)


MAY_BE_NULL = ("dropout_op", "nonlin")


@pytest.mark.parametrize("value", ["os.system", "a b", "../x", 7, ["x"]])
def test_planner(value, bad_json):
    assert "experiment_planner_used" in bad_json("plans.json", lambda p: p.update(experiment_planner_used=value))


def test_planner_of_the_senders_own_is_dropped(changed_zip, install, results):
    def change(contents):
        contents["plans.json"] = contents["plans.json"].replace(b'"ExperimentPlanner"', b'"MyOwnPlanner"')
    install(changed_zip(change), "-as", "SiteB")
    plans = next(results.rglob("plans.json"))
    assert "experiment_planner_used" not in json.loads(plans.read_text())


@pytest.mark.parametrize("value", ["os.system", "join", "SimpleITK", "Union"])
def test_reader_in_dataset_json(value, bad_json):
    assert "overwrite_image_reader_writer" in bad_json(
        "dataset.json", lambda d: d.update(overwrite_image_reader_writer=value))


def test_configuration_that_is_not_even_used(bad_json):
    def change(plans):
        other = json.loads(json.dumps(plans["configurations"]["2d"]))
        other["architecture"]["network_class_name"] = "os.system"
        plans["configurations"]["3d_fullres"] = other
    assert "'os.system' is not allowed" in bad_json("plans.json", change)


@pytest.mark.parametrize("name", ["dinov2_eva.Dinov2PrimusEncL", "vgg.VGG16", "primus.PrimusM", "resnet.ResNet18"])
def test_networks_that_cannot_be_stitched(name, bad_json):
    full = f"dynamic_network_architectures.architectures.{name}"
    assert "cannot be stitched" in bad_json("plans.json", lambda p: architecture("network_class_name")(p, full))


def arguments(**values):
    return lambda p: p["configurations"]["2d"]["architecture"]["arch_kwargs"].update(values)


def settings(**values):
    return lambda p: p["configurations"]["2d"].update(values)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


PLANS = {
    "features": arguments(features_per_stage=10**9), "features listed": arguments(features_per_stage=[10**9] * 3),
    "features that pass": arguments(features_per_stage=[16384] * 3),
    "no features": arguments(features_per_stage=[0] * 3),
    "stages": arguments(n_stages=10**9), "convolutions": arguments(n_conv_per_stage=10**9),
    "convolutions listed": arguments(n_conv_per_stage=[10**9] * 3), "stages that pass": arguments(n_stages=64),
    "kernel": arguments(kernel_sizes=[[10**9] * 2] * 3), "stride": arguments(strides=[[10**9] * 2] * 3),
    "stride 0": arguments(strides=[[0, 0]] * 3), "negative": arguments(n_stages=-1), "text": arguments(n_stages="3"),
    "path": arguments(pretrained="/etc/passwd"), "unknown argument": arguments(surprise=1),
    "long list": arguments(kernel_sizes=[[3, 3]] * 1000), "2^64": arguments(n_stages=2**64),
    "patch": settings(patch_size=[10**9, 10**9]), "patch that passes one side": settings(patch_size=[16384, 16384]),
    "patch that does not divide": settings(patch_size=[33, 31]), "patch 4d": settings(patch_size=[8] * 4),
    "patch 3d": settings(patch_size=[8] * 3, spacing=[1] * 3), "batch": settings(batch_size=10**12),
    "spacing": settings(spacing=[0, -1]), "masks": settings(use_mask_for_norm=["yes"]),
    "path of data": settings(data_identifier="../../escaped"),
    "threads": settings(resampling_fn_data_kwargs={"n": 10**9}),
    "cascade": settings(previous_stage="3d_lowres"), "NaN": settings(spacing=[float("nan"), 1.0]),
    "infinity": settings(spacing=[float("inf"), 1.0]), "deep": lambda p: p.update(deep=nested(500)),
    "long": lambda p: p.update(many=list(range(200_000))), "no configurations": lambda p: p.pop("configurations"),
    "list of configurations": lambda p: p.update(configurations=[1]), "circle": settings(inherits_from="2d"),
    "other configuration": lambda p: p.update(configurations={"3d": p["configurations"]["2d"]}),
    "axes": lambda p: p.update(transpose_forward=[0, 1, 7]), "intensities": lambda p: p.update(
        foreground_intensity_properties_per_channel={"0": {"mean": "os.system"}}),
    "no architecture": lambda p: p["configurations"]["2d"].pop("architecture"),
    "imports": lambda p: p["configurations"]["2d"]["architecture"].update(_kw_requires_import=["n_stages"]),
}


@pytest.mark.parametrize("kind", PLANS)
def test_absurd_plans(kind, bad_json):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bad_json("plans.json", PLANS[kind])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


DATASETS = {
    "no channels": lambda d: d.pop("channel_names"), "many channels": lambda d: d.update(
        channel_names={str(i): "MRI" for i in range(10_000)}), "channel names": lambda d: d.update(
        channel_names={"0": 7}), "channel list": lambda d: d.update(channel_names=["MRI"]),
    "channel keys": lambda d: d.update(channel_names={"x" * 10_000: "MRI"}),
    "other channels": lambda d: d.update(channel_names={"0": "a", "1": "b"}),
    "many labels": lambda d: d.update(labels={"background": 0, **{str(i): i for i in range(1, 9999)}}),
    "large label": lambda d: d.update(labels={"background": 0, "a": 10**9}), "no labels": lambda d: d.pop("labels"),
    "no background": lambda d: d.update(labels={"a": 1, "b": 2}), "more labels": lambda d: d["labels"].update(c=3),
    "regions without order": lambda d: d.update(labels={"background": 0, "whole": [1, 2], "b": [2]}),
    "ending": lambda d: d.update(file_ending="/../../escaped"), "no ending": lambda d: d.pop("file_ending"),
    "cases": lambda d: d.update(numTraining="many"), "deep": lambda d: d.update(name=nested(500)),
    "name": lambda d: d.update(name=["x"]), "label of text": lambda d: d["labels"].update(a="os.system"),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_absurd_dataset_json(kind, bad_json):
    bad_json("dataset.json", DATASETS[kind])


PARTIES = {
    "trainer up": {"trainer": "../../escaped"}, "trainer path": {"trainer": "/tmp/x"}, "plans": {"plans_name": "a__b"},
    "configuration": {"configuration": "2d/../.."}, "name": {"name": "\x1b[2J"}, "version": {"format_version": 2},
    "format": {"format": "other"}, "no folds": {"folds": []}, "fold up": {"folds": [{"fold": "../../x"}]},
    "fold twice": {"folds": [{"fold": "0"}, {"fold": "0"}]}, "fold missing": {"folds": [{"fold": "5"}]},
    "epochs": {"folds": [{"fold": "0", "epochs": "x"}]}, "dice": {"folds": [{"fold": "0", "dice": {"a": "x"}}]},
    "licence": {"licence": 7}, "channels": {"channels": "MRI"}, "files": {"files": {"plans.json": "x"}},
    "cases": {"training_cases": -1}, "deep": {"contact": nested(500)}, "versions": {"exported_with": {"torch": 2}},
}


@pytest.mark.parametrize("kind", PARTIES)
def test_absurd_party_json(kind, bad_json):
    bad_json("party.json", lambda p: p.update(PARTIES[kind]))


@pytest.mark.parametrize("contents", [b"", b"{", b"[" * 100_000, b"\xff\xfe\x00", b"[]", b"null", b"9" * 10_000,
                                      b'{"configurations": NaN}'])
@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "party.json"])
def test_json_that_is_none(name, contents, changed_zip, refused):
    assert name in refused(changed_zip(lambda members: members.update({name: contents}), told=name != "party.json"))


ODD = (None, True, -1, 0, 2**40, 1e300, "", "os.system", "../x", "\x1b[31m", [], [[]], {}, {"0": []}, [None],
       "a" * 3000)


def leaves(value, path=()):
    """Paths to everything in a JSON value, containers included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "party.json"])
def test_any_value_put_anywhere(name, changed_zip, refused, install, capsys):
    """Refused in one line, or harmless: the model installs. Never a traceback."""
    chance, refusals = random.Random(0), 0
    for _ in range(100):
        def change(contents):
            value = json.loads(contents[name])
            path = chance.choice([p for p in leaves(value) if p])
            inner = value
            for key in path[:-1]:
                inner = inner[key]
            if chance.random() < 0.2:
                del inner[path[-1]]
            else:
                inner[path[-1]] = chance.choice(ODD)
            contents[name] = json.dumps(value).encode()
        path = changed_zip(change, told=name != "party.json")
        try:
            install(path, "-as", "SiteB")
        except SystemExit as error:
            said = capsys.readouterr().err
            assert error.code == 2 and said.count("\n") == 1 and said[:-1].isprintable(), said
            refusals += 1
    assert 20 < refusals < 100
