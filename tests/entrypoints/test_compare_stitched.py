"""nnUNetv2_compare_stitched: what it prints and leaves, and bad input."""

import re

import pytest
from stitched_model import tree

from nnunetv2_stitch.entrypoints import compare_stitched
from nnunetv2_stitch.entrypoints.common import run


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def command(*arguments):
    args = compare_stitched.build_parser().parse_args([str(a) for a in arguments])
    run(lambda: compare_stitched.main(args), verbose=args.verbose, resume="--c")


SHORT = ("-epochs", 1, "-iterations", 2, "-positions", "2,20,41", "-f", 0, "-device", "cpu", "--disable_tta",
         "--disable_progress_bar")


@pytest.mark.slow
def test_a_comparison_ends_with_tables_figures_and_one_page(world, capsys, tmp_path):
    out = tmp_path / "out"
    command(world.host.dataset_id, world.partner.dataset_id, "-rows", "plain_ensemble", "stitched", "pooled",
            "-baseline_epochs", 1, "-baseline_iterations", 2, "-o", out, *SHORT)
    printed = capsys.readouterr().out
    for name in ("A alone", "plain ensemble", "stitched, rule 2", "pooled data"):
        assert name in printed
    assert "needs the images of both parties in one place" in printed
    assert re.search(r"stitched, rule 2: position \d+, (en|de)coder\.", printed)
    page = (out / "report.html").read_text()
    assert "pooled data" in page and "<script" not in page.lower()
    for name in ("comparison.json", "comparison.csv", "comparison.md", "compare_state.json"):
        assert (out / name).is_file()
    assert list((out / "figures").glob("*.png"))


def test_bad_input_is_one_line_and_writes_nothing(world, capsys):
    before = tree(world.root), sorted(world.root.rglob("*"))
    for arguments, said in ((("-rows", "stiched"), "no row stiched"), (("-f", 7), "fold 7"),
                            (("-datasets", "A"), "NAME=FOLDER"), (("-datasets", "A=/nowhere"), "/nowhere"),
                            (("-datasets", "A=x", "A=y"), "dataset A is named twice"),
                            (("-unseen", "C"), "NAME=FOLDER"), (("-unseen", "C=x", "c=y"), "c is named twice"),
                            (("-c", "3d_lowres"), "3d_lowres"), (("-o_p", "../x"), "-o_p '../x': give a name")):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            command(world.host.dataset_id, world.partner.dataset_id, "-device", "cpu", *arguments)
        err = capsys.readouterr().err
        assert left.value.code == 2 and err.count("\n") == 1 and said in err, err
    assert (tree(world.root), sorted(world.root.rglob("*"))) == before


def test_rows_are_listed_without_naming_datasets(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["nnUNetv2_compare_stitched", "--list_rows"])
    compare_stitched.compare_stitched_entry()
    printed = capsys.readouterr().out
    assert "stitched_rule3" in printed and "federated" in printed and "at the same time" in printed
