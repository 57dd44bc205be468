"""The file that travels, and how files of several partners make one choice."""

import copy
import json
from dataclasses import replace

import pytest

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.selection.partners_numbers import choose_with_partners
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.selection.sweeps_file import PartySweeps, read_sweeps


def sweep(fold, ensemble, positions=(0, 1, 2)):
    ensemble = list(ensemble)
    return Sweep(fold, list(positions), [f"layer.{p}" for p in positions], ensemble, ensemble, ensemble,
                 {"host": .5, "partner": .5, "ensemble": .5}, 3)


HOST = [sweep(0, (.9, .7, .2)), sweep(1, (.9, .7, .2))]


@pytest.fixture
def model(tmp_path):
    """Of a model folder, what a choice looks at."""
    folder = tmp_path / "model"
    for fold in (0, 1):
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "stitches_all.safetensors").write_bytes(bytes([fold]))
    return folder


@pytest.fixture
def write(model, tmp_path):
    def write(name, *sweeps, change=None):
        digests = {str(s.fold): sha256(str(model / f"fold_{s.fold}" / "stitches_all.safetensors")) for s in sweeps}
        value = json.loads(json.dumps(PartySweeps("partner", digests, sweeps).to_json()))
        if change:
            change(value)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(value))
        return str(path)
    return write


def test_what_is_read_is_what_was_written(write):
    read = read_sweeps(write("b", sweep(0, (.1, .2, .3)), sweep(1, (.2, .3, .4))))
    assert [s.ensemble for s in read.sweeps] == [[.1, .2, .3], [.2, .3, .4]]
    assert PartySweeps.from_json(read.to_json()) == read


def test_more_digits_than_anyone_needs_do_not_travel(write):
    value = json.loads(open(write("b", sweep(0, (1 / 3, .2, .3)))).read())
    assert value["sweeps"][0]["ensemble"][0] == 0.333333


@pytest.mark.parametrize("change", [
    lambda v: v.pop("sweeps"), lambda v: v.update(format=2), lambda v: v.update(party="nobody"),
    lambda v: v.update(sweeps=[]), lambda v: v.update(sweeps={"a": 1}), lambda v: v.pop("model_sha256"),
    lambda v: v["model_sha256"].update({"7": "x"}), lambda v: v["model_sha256"].update({"0": 5}),
    lambda v: v["sweeps"].append(copy.deepcopy(v["sweeps"][0])), lambda v: v["sweeps"].append("text"),
    lambda v: v["sweeps"].append(3), lambda v: v["sweeps"][0].update(more=1), lambda v: v["sweeps"][0].pop("names"),
    lambda v: v["sweeps"][0].update(fold=-1), lambda v: v["sweeps"][0].update(fold=True),
    lambda v: v["sweeps"][0].update(positions=[0, 2, 1]), lambda v: v["sweeps"][0].update(positions="012"),
    lambda v: v["sweeps"][0].update(ensemble=[.1, .2]), lambda v: v["sweeps"][0].update(ensemble=[.1, .2, 1.5]),
    lambda v: v["sweeps"][0].update(ensemble=[.1, .2, float("nan")]), lambda v: v["sweeps"][0].update(host_head=None),
    lambda v: v["sweeps"][0].update(partner_head=["a", "b", "c"]), lambda v: v["sweeps"][0].update(cases=0),
    lambda v: v["sweeps"][0].update(baselines={"host": .1}), lambda v: v["sweeps"][0].update(names=[1, 2, 3]),
    lambda v: v["sweeps"][0].update(r2=5),
])
def test_anything_else_is_refused_in_one_line(write, change):
    path = write("b", sweep(0, (.1, .2, .3)), change=change)
    with pytest.raises(StitchError, match="is not what nnUNetv2_sweep_stitched writes") as caught:
        read_sweeps(path)
    assert path in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", '"sweeps"', "null", '{"sweeps": 1}', ""])
def test_other_json_is_refused(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(StitchError, match="b.json"):
        read_sweeps(str(path))


def test_one_partner(model, write):
    path = write("b", sweep(0, (.1, .6, .7)), sweep(1, (.1, .6, .7)))
    positions = {p: choose_with_partners(str(model), HOST, [path], p)[0].position
                 for p in ("own", "balanced", "partner")}
    assert positions == {"own": 0, "balanced": 1, "partner": 2}
    (choice,) = choose_with_partners(str(model), HOST, [path], "own")
    assert choice.remarks == tuple(f"On the partner's cases the stitched ensemble (0.100) is worse than {what} (0.500)."
                                   for what in ("the partner alone", "the plain ensemble"))
    value = json.loads(json.dumps(choice.to_json()))
    assert value["prefer"] == "own" and value["files"] == ["b.json"] and value["front"] == [0, 1, 2]


def test_several_partners_in_any_order(model, write):
    b, c = write("b", sweep(0, (.1, .6, .7))), write("c", sweep(1, (.7, .6, .1)))
    for files in ([b, c], [c, b]):
        (choice,) = choose_with_partners(str(model), HOST, files, "partner")
        assert choice.position == 1 and {p.party for p in choice.front.parties} == {"host", "b", "c"}
    assert any("covers only 1 of 2 folds" in r for r in choice.remarks)


def test_positions_that_not_every_file_covers_are_left_out(model, write):
    (choice,) = choose_with_partners(str(model), HOST, [write("b", sweep(0, (.6, .7), (1, 2)))], "own")
    assert choice.position == 1 and choice.front.positions == (1, 2)
    assert "Only 2 of 3 positions are compared" in choice.remarks[0]
    with pytest.raises(StitchError, match="no position in common"):
        choose_with_partners(str(model), HOST, [write("b", sweep(0, (.6,), (1,))), write("c", sweep(0, (.6,), (2,)))])


def test_a_position_that_this_model_does_not_have(model, write):
    with pytest.raises(StitchError, match="position 8 at layer layer.8, this model has none there"):
        choose_with_partners(str(model), HOST, [write("b", sweep(0, (.6, .7), (1, 8)))])


def test_with_several_partners_each_has_a_position(model, write):
    """`c` sends its numbers of all positions, the other partner's included, and both choices heed them."""
    def star(fold, ensemble):
        return replace(sweep(fold, ensemble, range(4)), parties=["partner", "partner2"] * 2,
                       baselines={"host": .5, "partner": .6, "partner2": .7, "ensemble": .5})
    own = [star(0, (.9, .8, .7, .6))]
    path = write("c", star(0, (.1, .2, .3, .4)))
    chosen = {p: tuple(c.position for c in choose_with_partners(str(model), own, [path], p))
              for p in ("own", "partner")}
    assert chosen == {"own": (0, 1), "partner": (2, 3)}
    first, second = choose_with_partners(str(model), own, [path], "own")
    assert first.front.positions == (0, 2) and [p.partner for p in second.front.parties] == [.7, .7]
