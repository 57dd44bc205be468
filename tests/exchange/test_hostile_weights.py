"""Weights that try to run code, to fill the memory, or that do not fit: one line, code 2, nothing left."""

import io
import os
import struct
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
import torch
from exchange.zips import write_zip

FOLDER = "Dataset007_X/nnUNetTrainer__nnUNetPlans__2d"
WEIGHTS = "fold_0.safetensors"
FIELDS = ("network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch",
          "init_args", "trainer_name", "inference_allowed_mirroring_axes")


class Runs:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def bad_weights(changed_zip, refused):
    """`bad_weights(change)`: `change` alters the tensors of one fold."""
    def call(change) -> str:
        def alter(contents):
            tensors = safetensors.torch.load(contents[WEIGHTS])
            change(tensors)
            contents[WEIGHTS] = safetensors.torch.save(tensors)
        return refused(changed_zip(alter))
    return call


@pytest.fixture
def stock_zip(sender, tmp_path):
    """`stock_zip(checkpoint)`: a zip as stock nnU-Net writes it, with one fold; bytes or what torch.save takes."""
    def make(checkpoint) -> object:
        if not isinstance(checkpoint, bytes):
            buffer = io.BytesIO()
            torch.save(checkpoint, buffer)
            checkpoint = buffer.getvalue()
        files = {name: (sender / name).read_bytes() for name in ("plans.json", "dataset.json")}
        return write_zip(tmp_path / "stock.zip", {f"{FOLDER}/{n}": d for n, d in {
            **files, "fold_0/checkpoint_final.pth": checkpoint}.items()})
    return make


@pytest.fixture
def honest(sender):
    return torch.load(sender / "fold_0" / "checkpoint_final.pth", weights_only=False)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", ["system", "call", "eval", "open"])
def test_code_in_every_field_of_a_checkpoint(field, kind, honest, stock_zip, refused, tmp_path):
    sentinel = str(tmp_path / "ran")
    command = f"{sys.executable} -c \"open({sentinel!r}, 'w')\""
    honest[field] = {"system": Runs(os.system, command), "call": Runs(subprocess.call, command),
                     "eval": Runs(eval, f"open({sentinel!r}, 'w')"), "open": Runs(open, sentinel, "w")}[kind]
    said = refused(stock_zip(honest))
    assert "could run code" in said and "nothing of it was run" in said and "checkpoint_final.pth" in said


def test_the_corpus_is_hostile_indeed(honest, tmp_path):
    honest["logging"] = Runs(open, str(tmp_path / "ran"), "w")
    torch.save(honest, tmp_path / "c.pth")
    torch.load(tmp_path / "c.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_code_among_the_weights_and_behind_their_names(honest, stock_zip, refused, tmp_path):
    name = next(iter(honest["network_weights"]))
    honest["network_weights"][name] = Runs(open, str(tmp_path / "ran"), "w")
    refused(stock_zip(honest))
    honest["network_weights"] = {Runs(str, "x"): 1}
    refused(stock_zip(honest))


@pytest.mark.parametrize("change", ["empty", "text", "cut", "compressed", "not torch", "flipped", "list"])
def test_checkpoints_that_are_none(change, honest, stock_zip, refused, tmp_path):
    buffer = io.BytesIO()
    torch.save([1] if change == "list" else honest, buffer)
    data = buffer.getvalue()
    if change == "compressed":  # 64 MiB of a checkpoint in a few KiB
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {n: archive.read(n) for n in archive.namelist()}
        parts["archive/data/0"] = bytes(64 << 20)
        data = write_zip(tmp_path / "c.pth", parts, zipfile.ZIP_DEFLATED).read_bytes()
    flipped = bytearray(data)
    flipped[data.index(b"data.pkl") + 200] ^= 0xFF
    data = {"empty": b"", "text": b"hello", "cut": data[:len(data) // 2], "flipped": bytes(flipped),
            "not torch": write_zip(tmp_path / "n.pth", {"a": b"b"}).read_bytes()}.get(change, data)
    assert "checkpoint_final.pth" in refused(stock_zip(data))


@pytest.mark.parametrize("make, said", [
    (lambda t: torch.zeros(1).expand(t.shape), "claims more values"),
    (lambda t: t.to_sparse(), "no ordinary tensor"),
    (lambda t: "text", "no ordinary tensor"),
    (lambda t: t.to(torch.complex64), "complex64"),
    (lambda t: t.int(), "int32"),
    (lambda t: torch.zeros(1).expand(10**6, 10**6), "claims more values"),
    (lambda t: t + 1, "are one tensor of the network but differ"),
])
def test_odd_tensors(make, said, honest, stock_zip, refused):
    name = next(iter(honest["network_weights"]))
    honest["network_weights"][name] = make(honest["network_weights"][name])
    assert said in refused(stock_zip(honest))


@pytest.mark.parametrize("axes", [[5], ["0"], "0", 7, {"a": 1}])
def test_odd_mirroring_axes(axes, honest, stock_zip, refused, bad_json):
    honest["inference_allowed_mirroring_axes"] = axes
    assert "mirroring axes" in refused(stock_zip(honest))
    assert "mirroring axes" in bad_json("party.json", lambda p: p["folds"][0].update(mirroring_axes=axes))


FIRST = "encoder.stages.0.0.convs.0.conv.weight"


@pytest.mark.parametrize("change, said", [
    (lambda t: t[FIRST].fill_(float("nan")), f"{FIRST} holds NaN or infinity"),
    (lambda t: t[FIRST].view(-1)[3:4].fill_(float("inf")), f"{FIRST} holds NaN or infinity"),
    (lambda t: t.update({FIRST: torch.zeros(7, 1, 3, 3)}), f"{FIRST} is of shape (7, 1, 3, 3)"),
    (lambda t: t.pop(FIRST), f"lacks tensor {FIRST}"),
    (lambda t: t.update(extra=torch.zeros(1)), "holds tensor extra"),
    (lambda t: t.update({"\x1b[31m": torch.zeros(1)}), "holds tensor"),
    (lambda t: t.update({FIRST: t[FIRST].long()}), "int64"),
    (lambda t: t.clear(), "lacks tensor"),
])
def test_weights_that_do_not_fit(change, said, bad_weights):
    assert said in bad_weights(change)


@pytest.mark.parametrize("contents", [
    b"", b"\x01", struct.pack("<Q", 2**63), struct.pack("<Q", 9 << 20) + b"{" * (9 << 20),
    struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 8) + b"hello!!!", struct.pack("<Q", 5000) + b'{"a":' * 1000,
    struct.pack("<Q", 61) + b'{"a":{"dtype":"F32","shape":[999999999],"data_offsets":[0,4]}}'[:61] + bytes(4),
])
def test_files_that_are_no_safetensors(contents, changed_zip, refused):
    assert WEIGHTS in refused(changed_zip(lambda members: members.update({WEIGHTS: contents})))


