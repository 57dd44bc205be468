import json
from dataclasses import replace

import numpy as np
import pytest

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.selection.rules import (
    choose,
    choose_each,
    label_free_agreement,
    label_free_choice,
    position_at_progress,
)
from nnunetv2_stitch.selection.sweep import Sweep


def sweep(fold, dice, positions=None, r2=()):
    positions = list(range(len(dice))) if positions is None else positions
    return Sweep(fold, positions, [f"layer.{p}" for p in positions], dice, dice, dice, {"host": 0.5}, 3, list(r2))


SWEEPS = [sweep(0, [.1, .9, .8, .2]), sweep(1, [.2, .3, .8, .9]), sweep(2, [.1, .5, .7, .6])]


def test_rule_1_takes_each_folds_best():
    assert choose(SWEEPS, "1") == {0: 1, 1: 3, 2: 2}


def test_rule_2_takes_the_lowest_mean_rank():
    # ranks: [4 1 2 3], [4 3 2 1], [4 3 1 2] -> means 4, 2.33, 1.67, 2
    assert choose(SWEEPS, "2") == {0: 2, 1: 2, 2: 2}


def test_each_partner_gets_a_position_of_its_own():
    star = [replace(s, parties=["partner", "partner2", "partner", "partner2"]) for s in SWEEPS]
    assert choose_each(star, "1") == {0: (2, 1), 1: (2, 3), 2: (2, 3)}
    assert choose_each(SWEEPS, "2") == {0: (2,), 1: (2,), 2: (2,)}
    assert choose_each(star, "3", [0, 3])[1] == (0, 3)
    for wrong in ([0], [0, 2], [0, 1, 3], []):
        with pytest.raises(StitchError, match="rule 3 needs -position with one of the positions of partner"):
            choose_each(star, "3", wrong)


def test_leave_this_fold_out_ignores_the_fold_itself():
    # without fold 1: ranks [4 1 2 3], [4 3 1 2] -> means 4, 2, 1.5, 2.5
    assert choose(SWEEPS, "loo")[1] == 2
    changed = [SWEEPS[0], sweep(1, [1, 0, 0, 0]), SWEEPS[2]]
    assert choose(changed, "loo")[1] == choose(SWEEPS, "loo")[1]
    with pytest.raises(StitchError, match="two folds"):
        choose(SWEEPS[:1], "loo")


def test_rule_3_is_the_users():
    assert choose(SWEEPS, "3", 0) == {0: 0, 1: 0, 2: 0}
    with pytest.raises(StitchError, match="-position"):
        choose(SWEEPS, "3", 17)


def test_ties_share_their_rank_and_the_earliest_wins():
    assert choose([sweep(0, [.5, .5, .4])], "2") == {0: 0}
    assert choose([sweep(0, [.4, .5, .5], positions=[3, 8, 9])], "1") == {0: 8}


def test_one_fold_makes_rules_1_and_2_equal():
    assert choose(SWEEPS[:1], "1") == choose(SWEEPS[:1], "2")


def test_sweeps_over_other_positions_and_none_at_all_are_refused():
    with pytest.raises(StitchError, match="different positions"):
        choose([SWEEPS[0], sweep(1, [.1, .2])], "2")
    with pytest.raises(StitchError, match="no sweep"):
        choose([], "2")
    with pytest.raises(StitchError, match="rule"):
        choose(SWEEPS, "7")


def test_progress_names_the_nearest_position():
    assert position_at_progress([0.1, 0.4, 0.7, 0.9], 0.65) == 2


def test_label_free_agreement_is_a_rank_correlation():
    assert label_free_agreement(sweep(0, [.1, .2, .4], r2=[(.1, .1), (.2, .4), (.8, .9)])) == pytest.approx(1)
    assert label_free_agreement(sweep(0, [.1, .2, .4], r2=[(.9, .9), (.2, .4), (.1, .1)])) == pytest.approx(-1)
    assert label_free_agreement(sweep(0, [.1, .2, .4])) is None


def test_sweep_round_trip_names_no_case():
    original = sweep(0, [.1, .2], r2=[(.1, .2), (.3, .4)])
    assert Sweep.from_json(json.loads(json.dumps(original.to_json()))) == original
    assert isinstance(np.float64(0.1).item(), float)


NAN = float("nan")
EMPTY = replace(sweep(1, [NAN] * 4), baselines={"host": NAN})


def test_a_fold_with_nothing_to_choose_by_takes_no_part():
    """The kind: no number is chosen by that is not a number, and where there is none at all one line says so."""
    sweeps = [SWEEPS[0], EMPTY, SWEEPS[2]]
    with_two = choose([SWEEPS[0], SWEEPS[2]], "2")
    assert choose(sweeps, "2") == {**with_two, 1: with_two[0]}
    assert choose(sweeps, "1") == {0: 1, 1: with_two[0], 2: 2}
    assert choose(sweeps, "loo") == {0: choose([SWEEPS[2]], "1")[2], 1: with_two[0], 2: choose([SWEEPS[0]], "1")[0]}
    assert choose([EMPTY], "3", 2) == {1: 2}
    for rule in ("1", "2", "loo"):
        with pytest.raises(StitchError, match="fold 1 hold no foreground label.*nothing can be chosen by Dice"):
            choose([EMPTY], rule)
    with pytest.raises(StitchError, match="at least two folds with foreground"):
        choose([SWEEPS[0], EMPTY], "loo")
    assert not EMPTY.scorable and label_free_agreement(replace(EMPTY, r2=[(.1, .2)] * 4)) is None


def test_scores_that_are_no_numbers_travel_as_null(tmp_path):
    path = tmp_path / "sweep.json"
    write_json(str(path), replace(EMPTY, r2=[(.1, .2)] * 4).to_json())
    assert "NaN" not in path.read_text() and json.loads(path.read_text())["ensemble"] == [None] * 4
    assert not Sweep.from_json(read_json(str(path))).scorable


def test_no_file_holds_what_json_does_not_know(tmp_path):
    path = tmp_path / "any.json"
    value = {"a": [NAN, (1.5, float("-inf"))], "b": {"c": np.float64("nan")}, 3: "text", "d": None}
    write_json(str(path), value)
    assert json.loads(path.read_text()) == {"a": [None, [1.5, None]], "b": {"c": None}, "3": "text", "d": None}


def test_positions_are_chosen_without_labels_only_by_numbers():
    with pytest.raises(StitchError, match="no R"):
        label_free_choice([sweep(0, [.1, .2], r2=[(.1, NAN), (.3, .2)])])
    assert label_free_choice([replace(EMPTY, r2=[(.1, .2), (.3, .4), (.2, .2), (.1, .1)])]) == {1: 1}
