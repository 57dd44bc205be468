"""Files and folders as one types them."""

from nnunetv2_stitch.fileio import is_writable


def test_a_folder_that_is_not_there_yet_may_be_named_without_its_parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(is_writable(name) for name in ("OUT", "./OUT", "OUT/deeper", str(tmp_path / "OUT"), "."))
    assert not (tmp_path / "OUT").exists()
