"""nnUNetv2_stitch_info says what differs and whether it matters."""

import json
import shutil

import pytest
from model_folders import edit, make_model, results  # noqa: F401 -- fixtures
from stitched_model import tree

from nnunetv2_stitch.entrypoints.stitch_info import stitch_info_entry
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.parties.model_folder import read_model_folder


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(*arguments)` -> exit code, stdout, stderr."""
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["nnUNetv2_stitch_info", *map(str, arguments)])
        try:
            stitch_info_entry()
            code = 0
        except SystemExit as leave:
            code = leave.code
        return code, *capsys.readouterr()
    return run


def test_table(call, make_model, edit):  # noqa: F811
    host, partner = make_model("Dataset911_A"), make_model("Dataset912_B")
    edit(partner / "plans.json", lambda p: p["configurations"]["2d"].update(spacing=[1.0, 1.0]))
    edit(partner / "dataset.json", lambda d: d.update(labels={"background": 0, "b": 1, "a": 2}))
    for arguments in (("911", "912"), ("-m_a", host, "-m_b", partner), ("911", "-m_b", partner),
                      ("911", "-c", "2d", "912")):
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        lines = {line.split("  ")[0]: line for line in out.splitlines()}
        assert "approximate" in lines["spacing"] and "1.5 x 1.5 mm" in lines["spacing"]
        assert "bridged" in lines["labels"] and "same" in lines["channels"]


def test_json(call, make_model):  # noqa: F811
    make_model("Dataset911_A"), make_model("Dataset912_B")
    code, out, _ = call("911", "912", "--json")
    found = json.loads(out)
    assert code == 0 and found["can_be_stitched"] and {line["kind"] for line in found["lines"]} == {"same"}


def test_what_blocks_is_the_exit_code(call, make_model, edit):  # noqa: F811
    make_model("Dataset911_A")
    edit(make_model("Dataset912_B") / "dataset.json", lambda d: d.update(channel_names={"0": "CT"}))
    code, out, err = call("911", "912")
    assert code == 2 and "blocks" in out and err.count("\n") == 1 and "no channel CT" in err


@pytest.mark.parametrize("arguments, said", [
    ([], "give the host's dataset DATASET_A, or its model with -m_a FOLDER, and the partner, by a second dataset"),
    (["911"], "give the partner, by a second dataset DATASET_B or with -m_b ZIP_OR_FOLDER; found 911"),
    (["911", "912", "913"], "913"),
    (["-m_b", "x"], "give the host's dataset DATASET_A, or its model with -m_a FOLDER; found none"),
    (["911", "912", "914", "-tr_b", "T", "T", "T"], "-tr_b has 3 values for 2 partners"),
    (["911", "912", "-m_b", "x"], "x does not exist"),
    (["911", "-m_b", "nowhere"], "nowhere does not exist"),
    (["911", "-m_b", "B.zip"], "B.zip does not exist; give a zip that is there"),
    (["911", "912", "-label_map", "nowhere.json"], "nowhere.json does not exist"),
])
def test_bad_input_is_one_line(call, make_model, arguments, said):  # noqa: F811
    make_model("Dataset911_A"), make_model("Dataset912_B")
    code, out, err = call(*arguments)
    assert code == 2 and err.count("\n") == 1 and said in err and not out


def test_several_partners(call, make_model, edit):  # noqa: F811
    make_model("Dataset911_A"), make_model("Dataset912_B")
    third = make_model("Dataset913_C")
    edit(third / "dataset.json", lambda d: d.update(labels={"background": 0, "b": 1, "a": 2}))
    code, out, _ = call("911", "912", "-m_b", third)
    assert code == 0 and out.count("verdict") == 2 and "Dataset912_B" in out and "Dataset913_C" in out
    code, out, _ = call("911", "912", "913", "--json")
    assert [r["partner"].split("/")[-2] for r in json.loads(out)] == ["Dataset912_B", "Dataset913_C"]
    edit(third / "dataset.json", lambda d: d.update(channel_names={"0": "CT"}))
    code, out, err = call("911", "912", "913")
    assert code == 2 and "Dataset913_C, channels: " in err and "Dataset912_B" not in err


def test_one_structure_under_two_names_is_not_taken_for_background_without_a_word(call, make_model, edit,  # noqa: F811
                                                                                 tmp_path):
    make_model("Dataset911_A")
    partner = make_model("Dataset912_B")
    assert "WARNING" not in call("911", "912")[1]
    edit(partner / "dataset.json", lambda d: d.update(labels={"background": 0, "a": 1, "bee": 2}))
    code, out, err = call("911", "912")
    assert (code, err) == (0, "")
    assert ("WARNING: label 'b' of Dataset911_A (the host) is unknown to the partner, whose network never answers with "
            "it; label 'bee' of Dataset912_B (the partner) counts as background. If two of these") in out
    (tmp_path / "map.json").write_text('{"bee": "b"}')
    assert "WARNING" not in call("911", "912", "-label_map", tmp_path / "map.json")[1]
    (tmp_path / "map.json").write_text('{"bee": null}')  # then that one is known
    assert "bee" not in call("911", "912", "-label_map", tmp_path / "map.json")[1].split("WARNING")[1]


def test_an_unknown_option(call):
    code, out, err = call("911", "912", "--no_such_option")
    assert code == 2 and err.endswith("error: unrecognized arguments: --no_such_option\n") and not out


def test_a_map_that_is_none(call, make_model, tmp_path):  # noqa: F811
    make_model("Dataset911_A"), make_model("Dataset912_B")
    (tmp_path / "map.json").write_text('{"a": 1}')
    code, _, err = call("911", "912", "-label_map", tmp_path / "map.json")
    assert code == 2 and "map.json must hold" in err
    (tmp_path / "map.json").write_text('{"A": "b", "b": null}')
    code, out, _ = call("911", "912", "-label_map", tmp_path / "map.json")
    assert code == 0 and "b of the partner counts as background; a of the host" in " ".join(out.split())


def test_a_zip_is_looked_at_without_a_trace(call, make_model, results, tmp_path, monkeypatch):  # noqa: F811
    """Kind: what promises to write nothing writes nothing, so a folder that cannot be written to is no hindrance."""
    host, partner = make_model("Dataset911_A"), make_model("Dataset912_B")
    sent = export_party(read_model_folder(str(partner)), str(tmp_path / "b.zip")).path
    shutil.rmtree(partner.parent)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    results.chmod(0o555)
    before = sorted(tmp_path.rglob("*")), tree(tmp_path)
    code, out, err = call("911", "-m_b", sent)
    assert (code, err) == (0, "") and "Dataset912_B" in out
    assert f"partner  Dataset912_B  {sent}\n" in out and "nnU-Net version" not in out
    assert "These models can be stitched" in out
    assert json.loads(call("911", "-m_b", sent, "--json")[1])["partner"] == sent
    assert (sorted(tmp_path.rglob("*")), tree(tmp_path)) == before
    monkeypatch.delenv("nnUNet_results")
    assert call("-m_a", host, "-m_b", sent)[0] == 0
    assert (sorted(tmp_path.rglob("*")), tree(tmp_path)) == before
    results.chmod(0o755)
