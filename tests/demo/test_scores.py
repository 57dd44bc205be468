from nnunetv2_stitch.demo.scores import MODELS, reading, table_rows


def rows(**dice):
    return [{"party": party, "model": model, "dice": value, "cortex": value, "inner": value, "cases": {"x": value}}
            for party in ("A: X", "B: Y") for model, value in zip(MODELS, dice[party[0]])]


def test_reading_says_gains_and_losses_per_party():
    lines = reading(rows(A=(0.9, 0.7, 0.8, 0.85), B=(0.6, 0.9, 0.8, 0.8)))
    assert lines == [
        "A: X: stitched -0.050 against A alone, +0.150 against B alone, +0.050 against plain ensemble.",
        "B: Y: stitched +0.200 against A alone, -0.100 against B alone, +0.000 against plain ensemble.",
    ]


def test_table_never_averages_over_parties():
    table = table_rows(rows(A=(0.9, 0.7, 0.8, 0.85), B=(0.6, 0.9, 0.8, 0.8)))
    assert len(table) == 2 * len(MODELS)
    assert {row["test cases of"] for row in table} == {"A: X", "B: Y"}
    assert all(row["cases"] == 1 for row in table)
