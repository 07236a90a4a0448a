import pytest
import torch

from detection.utils import precision
from detection.utils.precision import bf16_is_native, use_bf16


@pytest.mark.parametrize(
    ("wanted", "native", "result"),
    [
        ("float32", True, False),
        ("float32", False, False),
        ("bf16", True, True),
        ("bf16", False, True),
        ("auto", True, True),
        ("auto", False, False),
    ],
)
def test_auto_follows_the_machine(monkeypatch, wanted, native, result):
    monkeypatch.setattr(precision, "bf16_is_native", lambda: native)
    assert use_bf16(wanted) is result


@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_a_cpu_multiplies_by_either_of_two_extensions(monkeypatch, avx, amx):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert bf16_is_native() is (avx or amx)


def test_a_torch_that_cannot_tell_means_no(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert bf16_is_native() is False


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_is_not_native(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native)
    assert bf16_is_native() is native
