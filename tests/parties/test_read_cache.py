"""Kind: what a run reads of a model it reads once."""

import hashlib
import os
from collections import Counter

import pytest
import torch

from nnunetv2_stitch.parties import read_cache
from nnunetv2_stitch.parties.checkpoint import load_parent, sha256
from nnunetv2_stitch.parties.read_cache import once, reading_once
from nnunetv2_stitch.parties.trust import trusting


@pytest.fixture
def reads(monkeypatch):
    """How often each file was loaded, by `load` and the file's path."""
    counted, load = Counter(), torch.load
    monkeypatch.setattr(torch, "load", lambda path, *a, **k: counted.update([str(path)]) or load(path, *a, **k))
    return counted


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {"a": torch.ones(4)}, "optimizer_state": {"b": torch.ones(9)}}, path)
    return str(path)


def test_once_in_a_run_and_anew_in_the_next(checkpoint, reads):
    for runs in (1, 2):
        with reading_once(), reading_once():
            first, second = load_parent(checkpoint), load_parent(checkpoint)
            assert first["network_weights"]["a"] is second["network_weights"]["a"]
            assert list(first) == ["network_weights"], "what only its own training needs is not kept"
            first.clear()
            assert load_parent(checkpoint)
        assert reads[checkpoint] == runs
    load_parent(checkpoint), load_parent(checkpoint)
    assert reads[checkpoint] == 4


def test_a_file_that_was_written_anew_is_read_anew(checkpoint, tmp_path):
    with reading_once():
        before = sha256(checkpoint)
        torch.save({"network_weights": {"a": torch.zeros(4)}}, tmp_path / "new.pth")
        os.replace(tmp_path / "new.pth", checkpoint)
        assert load_parent(checkpoint)["network_weights"]["a"].sum() == 0
        with open(checkpoint, "rb") as f:
            assert before != sha256(checkpoint) == hashlib.sha256(f.read()).hexdigest()


def test_what_was_read_with_trust_is_not_handed_on_without(checkpoint, reads):
    with reading_once():
        with trusting(True):
            load_parent(checkpoint)
        load_parent(checkpoint)
    assert reads[checkpoint] == 2


def test_memory_is_bounded(checkpoint, monkeypatch):
    monkeypatch.setattr(read_cache, "LIMIT", 100)
    made = []
    with reading_once():
        for kind in ("a", "b", "a", "c", "a", "b"):  # c takes the place of b, which was not used since
            once((kind,), checkpoint, lambda kind=kind: made.append(kind), lambda value: 50)
        once(("large",), checkpoint, lambda: made.append("large"), lambda value: 101)
        once(("a",), checkpoint, lambda: made.append("a"), lambda value: 50)
    assert made == ["a", "b", "c", "b", "large", "a"]
