from nnunetv2_stitch.demo.scores import MODELS, RECOMMENDED, figure_rows, models_of, reading, table_rows


def rows(**dice):
    return [{"party": party, "model": model, "dice": value, "cases": {"x": value}}
            for party in "AB" for model, value in zip(MODELS, dice[party])]


SOME = rows(A=(0.9, 0.7, 0.8, 0.85, 0.91), B=(0.6, 0.9, 0.8, 0.8, 0.82))


def test_reading_says_gains_and_losses_of_what_is_recommended_per_party():
    assert reading(SOME) == [
        "On A's own cases, recommended: +0.010 against A alone, +0.110 against plain ensemble, "
        "+0.060 against stitched.",
        "On the partner's cases, recommended: +0.220 against A alone, +0.020 against plain ensemble, "
        "+0.020 against stitched."]


def test_table_has_a_row_per_model_marks_the_recommended_and_never_averages_over_parties():
    table = table_rows(SOME, "a gate")
    assert [row["mean Dice"] for row in table] == list(MODELS)
    assert [row["mean Dice"] for row in table if row[""]] == [RECOMMENDED] and table[-1][""] == "<- a gate"
    assert (table[0]["A's own cases"], table[0]["the partner's cases"]) == (0.9, 0.6)
    assert {len(row) for row in table} == {4}


def test_every_model_is_named_in_one_word_for_the_command():
    models = models_of("a", "b", "s", "r")
    assert models == {"A_alone": "a", "B_alone": "b", "plain_ensemble": "s@ensemble", "stitched": "s",
                      "recommended": "r"}


def test_figure_shows_the_rows_of_the_table():
    assert [(r["party"], r["model"], r["dice"], r["cases"]) for r in figure_rows(SOME)][:1] == [
        ("A's own cases", "A alone", 0.9, [0.9])]
