"""Scores that are kept while a sweep runs."""

import numpy as np
import pytest

from nnunetv2_stitch.selection.scored_cases import ScoredCases, score_cases

MADE_OF = {"stitches": "abc", "positions": [1, 2], "cases": "def"}


@pytest.fixture
def kept(tmp_path) -> ScoredCases:
    return ScoredCases(str(tmp_path / "swe[e]p"), MADE_OF)


def dice(case: int) -> np.ndarray:
    return np.array([[case / 3, np.nan], [0.1 + case, 1 / 7]])


def run(kept, count, stop_at=None) -> tuple[list, list]:
    computed = []

    def score(case):
        if case == stop_at:
            raise KeyboardInterrupt
        computed.append(case)
        return dice(case)

    return score_cases(score, count, kept, "sweep", False), computed


def test_an_interrupted_sweep_goes_on_to_the_same_numbers(kept, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(kept, 5, stop_at=3)
    scores, computed = run(kept, 5)
    assert computed == [3, 4]
    np.testing.assert_array_equal(np.stack(scores), np.stack([dice(case) for case in range(5)]))
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_a_line_that_a_kill_cut_short_is_computed_again(kept, tmp_path):
    run(kept, 3)
    file, = tmp_path.iterdir()
    file.write_text(file.read_text()[:-20])
    scores, computed = run(kept, 3)
    assert computed == [2] and np.array_equal(scores[2], dice(2), equal_nan=True)
    assert run(kept, 3)[1] == []


def test_cases_of_several_processes_count(kept, tmp_path):
    run(kept, 2)
    file, = tmp_path.iterdir()
    file.rename(file.with_name(file.name.replace("_0.", "_3.")))
    assert run(kept, 3)[1] == [2] and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("changed", [{"stitches": "other"}, {"positions": [1]}, {"cases": "more"}])
def test_scores_of_anything_else_are_thrown_away(kept, tmp_path, changed):
    run(kept, 2)
    assert run(ScoredCases(kept.prefix, {**MADE_OF, **changed}), 2)[1] == [0, 1]
    assert run(kept, 2)[1] == [0, 1]


def test_without_a_place_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(ScoredCases(None, MADE_OF), 2)[1] == [0, 1] and not list(tmp_path.iterdir())
