"""Which gate is taken: the most careful one that keeps what A alone has, and none that is worse than no gate."""

import numpy as np

from nnunetv2_stitch.pipeline.gating import PATH, UNKNOWN, _choose

HOST = np.array([0.9, 0.8, 0.85, 0.7])


def scores(path, even=HOST - 0.2) -> dict:
    return {"host": HOST, "even": even, **{str(i): np.asarray(p) for i, p in enumerate(path)}}


def test_the_most_careful_gate_within_one_standard_error_of_the_host_alone():
    lost = np.array([1, -1, 1, 1])  # mean 0.5, standard error 0.5: within
    index, why, keeps = _choose(scores([HOST - 0.1] * 3 + [HOST - 0.01 * lost] + [HOST] * (len(PATH) - 4)))
    assert (index, keeps) == (3, True) and "one standard error" in why or "1 standard error" in why


def test_where_none_is_the_last_one_is_taken():
    index, why, keeps = _choose(scores([HOST - 0.01] * len(PATH)))
    assert (index, keeps) == (len(PATH) - 1, True) and "no point" in why


def test_signatures_that_claim_a_s_images_leave_no_gate():
    """Whatever they are, a gate that is worse on A's cases than even shares is not deployed."""
    index, why, keeps = _choose(scores([HOST - 0.3] * len(PATH)))
    assert not keeps and "worse on A's cases (0.51" in why and "than even shares (0.61" in why


def test_where_nothing_can_be_scored_the_gate_is_careful():
    nothing = np.full(4, np.nan)
    index, why, keeps = _choose({"host": nothing, "even": nothing, **{str(i): nothing for i in range(len(PATH))}})
    assert (PATH[index], keeps) == (UNKNOWN, True) and "no foreground" in why
