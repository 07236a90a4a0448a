import pytest
import torch

from detection.utils import precision
from detection.utils.precision import autocast_dtype, bf16_is_native, precision_name

CPU, GPU, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("device", [CPU, GPU, MPS])
@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_name_is_its_dtype_on_any_machine(monkeypatch, name, dtype, device, native):
    monkeypatch.setattr(precision, "bf16_is_native", lambda device: native)
    assert autocast_dtype(name, device) == dtype
    assert precision_name(dtype) == name


@pytest.mark.parametrize(
    ("device", "native", "dtype"),
    [
        (CPU, True, torch.bfloat16),
        (CPU, False, torch.float32),
        (GPU, True, torch.bfloat16),
        (GPU, False, torch.float16),  # T4, V100
        (MPS, False, torch.float32),
    ],
)
def test_auto_follows_the_device(monkeypatch, device, native, dtype):
    monkeypatch.setattr(precision, "bf16_is_native", lambda device: native)
    assert autocast_dtype("auto", device) == dtype


@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_a_cpu_multiplies_by_either_of_two_extensions(monkeypatch, avx, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert bf16_is_native(CPU) is (avx or amx)
    assert not bf16_is_native(MPS)  # what the CPU beside it has says nothing of it


def test_a_torch_that_cannot_tell_means_no(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert bf16_is_native(CPU) is False


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_is_not_native(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native)
    assert bf16_is_native(GPU) is native
