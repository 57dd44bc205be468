import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from networks import build, spec

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph import trace
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights, sha256
from nnunetv2_stitch.parties.plain_numpy import PlainDtype, plain_scalar


class Runs:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": build(spec()).state_dict(), "current_epoch": 3}, path)
    return path


def test_stock_checkpoint_reads_as_without_restrictions(world2d):
    path = world2d.model(world2d.host) / "fold_0" / "checkpoint_final.pth"
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # else our list of allowed names would not be needed
    ours, trusted = load_checkpoint(str(path)), torch.load(path, weights_only=False)
    assert ours.keys() == trusted.keys()
    assert all(torch.equal(v, trusted["network_weights"][k]) for k, v in ours["network_weights"].items())
    assert ours["logging"] == trusted["logging"] and ours["init_args"] == trusted["init_args"]
    assert type(ours["_best_ema"]) is type(trusted["_best_ema"]) and ours["_best_ema"] == trusted["_best_ema"]


@pytest.mark.parametrize("value", [np.float32(1.5), np.float64(-2.25), np.float16(0.5), np.int64(-7), np.uint8(200),
                                   np.bool_(True), np.array(3.5, ">f8")[()]])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_numbers_of_numpy_1_and_2(tmp_path, value, module):
    stored = pickle.dumps({"network_weights": {}, "value": value}, 2)
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        stored = stored.replace(name, b"MODULE")
    path = tmp_path / "c.pth"
    rewrite_pickle(path, stored.replace(b"MODULE", module))
    read = load_checkpoint(str(path))["value"]
    assert read == value and read.dtype == value.dtype


def rewrite_pickle(path, stored: bytes) -> None:
    """A checkpoint whose pickled part is `stored`."""
    torch.save({"network_weights": {}}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, stored if name.endswith("data.pkl") else data)


def hostile(sentinel):
    command = f"{sys.executable} -c \"open({str(sentinel)!r}, 'w')\""
    return [Runs(os.system, command), Runs(subprocess.call, command), Runs(eval, f"open({str(sentinel)!r}, 'w')"),
            Runs(open, str(sentinel), "w"), Runs(torch.load, str(sentinel)),
            Runs(np.frombuffer, b"1234"), Runs(np.dtype, "O"), np.array([1, 2]), np.str_("text")]


@pytest.mark.parametrize("index", range(9))
def test_nothing_from_a_hostile_file_runs(tmp_path, index):
    sentinel, path = tmp_path / "ran", tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {"a": torch.zeros(1)}, "logging": hostile(sentinel)[index]}, path)
    if index == 0:
        torch.load(path, weights_only=False)
        assert sentinel.exists()  # the file does run code where it is trusted
        sentinel.unlink()
    with pytest.raises(StitchError, match="could run code.*nothing of it was run") as error:
        load_checkpoint(str(path))
    assert str(path) in one_line(error)
    assert not sentinel.exists()


def test_message_names_what_a_file_asks_for(tmp_path):
    torch.save({"network_weights": Runs(os.system, "true")}, tmp_path / "c.pth")
    with pytest.raises(StitchError, match=r"asks for (posix|nt)\.system"):
        load_checkpoint(str(tmp_path / "c.pth"))


def test_allowed_names_are_forgotten_after_loading(checkpoint):
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(str(checkpoint))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("code", ["O", "V8", "f4,O", "M8", "S4", "f16", 3, None])
def test_only_plain_number_types(code):
    with pytest.raises(pickle.UnpicklingError):
        PlainDtype(code)


@pytest.mark.parametrize("arguments", [(PlainDtype("f4"), b"123"), (PlainDtype("f4"), b""), (PlainDtype("f4"),),
                                       (PlainDtype("f4"), [1]), ("f4", b"1234")])
def test_numbers_of_a_wrong_size(arguments):
    with pytest.raises(pickle.UnpicklingError):
        plain_scalar(*arguments)


@pytest.mark.parametrize("contents, message", [
    (b"", "is empty; copy it again"), (b"hello, world", "is not a checkpoint of nnU-Net"),
    (pickle.dumps({"network_weights": {}}), "is not a checkpoint of nnU-Net"),
])
def test_files_that_are_no_checkpoint(tmp_path, contents, message):
    path = tmp_path / "c.pth"
    path.write_bytes(contents)
    with pytest.raises(StitchError, match=message) as error:
        load_checkpoint(str(path))
    assert str(path) in one_line(error)


@pytest.mark.parametrize("value", [[1, 2], {"state_dict": {}}, {"network_weights": 3}, {"network_weights": {1: 2}}])
def test_other_torch_files(tmp_path, value):
    torch.save(value, tmp_path / "c.pth")
    with pytest.raises(StitchError, match="no network_weights"):
        load_checkpoint(str(tmp_path / "c.pth"))


def test_zip_that_torch_did_not_write(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(StitchError, match="c.pth is damaged") as error:
        load_checkpoint(str(tmp_path / "c.pth"))
    one_line(error)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_truncated(checkpoint, fraction):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[:int(fraction * len(data))])
    with pytest.raises(StitchError, match="is cut short at .* copy it again") as error:
        load_checkpoint(str(checkpoint))
    one_line(error)


def test_flipped_byte_is_found(checkpoint):
    data = bytearray(checkpoint.read_bytes())
    start = data.index(b"data.pkl") + 200  # inside the pickled names
    data[start] ^= 0xFF
    checkpoint.write_bytes(bytes(data))
    with pytest.raises(StitchError) as error:
        load_checkpoint(str(checkpoint))
    assert str(checkpoint) in one_line(error)


def test_missing_file_and_folder_in_its_place(tmp_path):
    with pytest.raises(StitchError, match="does not exist; check the model folder"):
        load_checkpoint(str(tmp_path / "c.pth"))
    with pytest.raises(StitchError, match="cannot be read"):
        load_checkpoint(str(tmp_path))
    with pytest.raises(StitchError, match="does not exist"):
        sha256(str(tmp_path / "c.pth"))


def test_sha256(tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "f").write_bytes(data)
    assert sha256(str(tmp_path / "f")) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapper_prefixes_are_stripped(prefix):
    weights = build(spec()).state_dict()
    stripped = network_weights({"network_weights": {prefix + k: v for k, v in weights.items()}})
    assert list(stripped) == list(weights)


def test_prefix_of_some_names_only_belongs_to_the_network():
    weights = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert network_weights({"network_weights": weights}) == weights


def test_every_tensor_is_used_or_known_or_the_weights_are_refused(checkpoint):
    """Kind: every tensor of a checkpoint is used, or known to be a duplicate or an idle head, or it is refused."""
    weights = network_weights(load_checkpoint(str(checkpoint)))
    traced, whole = trace(build(spec(), seed=3)), build(spec(), seed=4)
    assert len(traced.state_dict()) < len(weights), "tracing leaves only the first of a tensor's names"
    before = {k: v.clone() for k, v in traced.state_dict().items()}
    extra = {"decoder.seg_layers.9.weight": torch.zeros(1)}  # of deep supervision, by other versions of nnU-Net
    again = next(k for k in weights if k not in before)
    for wrong, said in ({"norm.running_mean": torch.zeros(6)}, "holds tensor norm.running_mean"), \
                       ({again: weights[again] + 1}, "are one tensor"):
        for module, network in ((traced, whole), (whole, None)):
            with pytest.raises(StitchError, match=said) as error:
                load_weights(module, {**weights, **wrong}, "folder/c.pth", network)
            assert "folder/c.pth" in one_line(error)
    with pytest.raises(StitchError, match="holds tensor"):  # a traced network alone cannot tell
        load_weights(traced, weights, "p")
    assert all(torch.equal(v, before[k]) for k, v in traced.state_dict().items())
    load_weights(traced, {**weights, **extra}, "p", whole)
    assert all(torch.equal(v, weights[k]) for k, v in traced.state_dict().items())


def test_load_weights_names_the_first_bad_tensor_and_changes_nothing(checkpoint):
    weights = network_weights(load_checkpoint(str(checkpoint)))
    network = build(spec())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    last = list(weights)[-1]
    shape = tuple(weights[last].shape)
    wrong = {"lacks": {k: v for k, v in weights.items() if k != last}, "NaN": {**weights, last: weights[last] * np.nan},
             r"shape \(7,\)": {**weights, last: torch.zeros(7)}}
    for message, given in wrong.items():
        with pytest.raises(StitchError, match=message) as error:
            load_weights(network, given, "folder/checkpoint_final.pth")
        assert last in one_line(error) and "folder/checkpoint_final.pth" in str(error.value)
        assert "NaN" in message or str(shape) in str(error.value)
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_weights_of_the_other_party(world2d):
    host, partner = (str(world2d.model(p) / "fold_0" / "checkpoint_final.pth") for p in (world2d.host, world2d.partner))
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    from nnunetv2_stitch.stitching.description import build_parent
    folder = read_model_folder(str(world2d.model(world2d.host)))
    network = build_parent(folder.network_spec, folder.num_input_channels, folder.num_outputs)
    load_weights(network, network_weights(load_checkpoint(host)), host)
    with pytest.raises(StitchError, match=r"encoder.stages.0.0.convs.0.conv.weight is of shape \(6, 1, 3, 3\)"):
        load_weights(network, network_weights(load_checkpoint(partner)), partner)


def test_unreadable_for_lack_of_permission(checkpoint):
    checkpoint.chmod(0)
    if os.access(checkpoint, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(StitchError, match="that you may read"):
        load_checkpoint(str(checkpoint))


def test_a_copy_has_the_same_sha256(checkpoint, tmp_path):
    assert sha256(shutil.copy(checkpoint, tmp_path / "copy")) == sha256(str(checkpoint))
