from nnunetv2_stitch.evaluation.tables import markdown_table, text_table

ROWS = [{"model": "A alone", "Dice": 0.91234, "cases": 12}, {"model": "stitched", "Dice": float("nan")}]


def test_text_table_aligns_numbers_to_the_right():
    assert text_table(ROWS).splitlines() == [
        "model      Dice  cases",
        "--------  -----  -----",
        "A alone   0.912     12",
        "stitched      -",
    ]


def test_markdown_table_has_one_width_and_escapes_bars():
    lines = markdown_table([{"a|b": "x|y", "n": 1}]).splitlines()
    assert len(set(map(len, lines))) == 1
    assert lines[1].endswith(":|") or lines[1].endswith(": |")
    assert r"x\|y" in lines[2] and r"a\|b" in lines[0]


def test_digits_can_be_chosen():
    assert text_table([{"Dice": 0.91234}], digits=1).splitlines()[2] == " 0.9"


def test_no_rows_give_an_empty_table():
    assert not text_table([]).strip()
