"""Untrusted weights files: corrupt or malicious, they give one clear error, and no code in them is executed."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from backbone import load_weights, resnet18
from backbone.weights import read_weights

TENSORS = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2, dtype=torch.float64)}
ARRAYS = {name: tensor.numpy() for name, tensor in TENSORS.items()}


def zipped():
    file = io.BytesIO()
    torch.save({"model": TENSORS, "recipe": "msra", "epoch": 3}, file)
    return file.getvalue()


def legacy():
    file = io.BytesIO()
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


FILES = {
    "zip": zipped(),
    "old": legacy(),
    "safetensors": save(TENSORS, {"recipe": "msra"}),
    "pickle": pickle.dumps({"model": ARRAYS, "__author__": "someone"}, protocol=2),
}


class Malicious:
    """Creates a file when unpickled without restrictions."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def read(path, data):
    """Return the weights, or None for a ValueError that names the file; any other error fails the test."""
    path.write_bytes(data)
    try:
        return read_weights(path)
    except ValueError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None


@pytest.mark.parametrize("kind", FILES)
def test_intact_files_are_read(kind, tmp_path):
    weights = read(tmp_path / "w", FILES[kind])
    assert set(weights.tensors) == set(TENSORS)
    assert torch.equal(weights.tensors["fc.bias"], TENSORS["fc.bias"])


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_corrupt_files(kind, tmp_path, data):
    """Files that are truncated, or have bytes changed, inserted or removed."""
    content = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.sampled_from(["flip", "cut", "insert", "remove"]))
        if change == "flip":
            content[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del content[max(at, 1) :]
        elif change == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif len(content) > 1:
            del content[at]
    read(tmp_path / "w", bytes(content))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_random_bytes(tmp_path, content):
    read(tmp_path / "w", content)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"model": {"conv1.weight": x}}, lambda x: [x], lambda x: {"a": x}]
)
@pytest.mark.parametrize("file_format", ["pickle", "zip", "old"])
def test_no_code_is_run(wrap, file_format, tmp_path):
    malicious = wrap(Malicious(tmp_path / "executed"))
    if file_format == "pickle":
        content = pickle.dumps(malicious)
    else:
        file = io.BytesIO()
        torch.save(malicious, file, _use_new_zipfile_serialization=file_format == "zip")
        content = file.getvalue()
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(resnet18(), tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "os system", "numpy load", "numpy._core.multiarray fromfile", "torch load"]
)
def test_other_globals_are_rejected(name, tmp_path):
    module, what = name.split()
    (tmp_path / "w.pkl").write_bytes(f"c{module}\n{what}\n.".encode())
    with pytest.raises(ValueError, match=f"{module}.{what} is not allowed in a weights file"):
        read_weights(tmp_path / "w.pkl")


def test_huge_arrays_are_not_allocated(tmp_path):
    """Pickled arrays with a huge shape, and a safetensors header longer than the file."""
    for function in (b"cnumpy\nndarray\n((I1000000000000\nttR.", b"cnumpy.core.multiarray\n_reconstruct\n"):
        call = b"" if function.endswith(b".") else b"(cnumpy\nndarray\n(I1000000000000\ntS'd'\ntR."
        read(tmp_path / "w.pkl", function + call)
    assert read(tmp_path / "w.safetensors", struct.pack("<Q", 2**40) + b"{" + b" " * 50) is None


def test_arrays_of_other_dtypes_are_rejected(tmp_path):
    for array in (np.array(["a", "b"]), np.array([{}, None]), np.zeros(2, dtype="c8")):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps({"conv1.weight": array}))
        with pytest.raises(ValueError, match="is not allowed in a weights file"):
            read_weights(tmp_path / "w.pkl")


def test_dtype_state_is_ignored(tmp_path):
    """Flags for object pointers would change numpy's shared dtype and be followed in other arrays too."""
    valid = pickle.dumps({"conv1.weight": np.ones(4, np.float32)}, protocol=2)
    state = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    short = state.replace(b"X\x01\x00\x00\x00<", b"U\x01<")
    original = next(at for at in (state, short, b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t") if at in valid)
    hostile = valid.replace(original, original.replace(b"K\x00t", b"K\x3ft"))
    assert hostile != valid
    weights = read(tmp_path / "w.pkl", hostile)
    assert torch.equal(weights.tensors["conv1.weight"], torch.ones(4))
    assert np.dtype(np.float32).flags == 0
