import pytest
import torch

from detection.ops.device import autocast, can_read, is_gpu, rows_at_once, use_gpu, use_padding

CPU, GPU, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")


@pytest.mark.parametrize(
    ("padded", "device", "wanted"),
    [
        (None, CPU, False),
        (None, GPU, True),
        (None, META, True),
        (True, CPU, True),
        (False, GPU, False),
    ],
)
def test_padding_follows_the_device_unless_asked_for(padded, device, wanted):
    assert use_padding(padded, device) is wanted


def test_only_cuda_is_a_gpu():
    assert [is_gpu(device) for device in (CPU, GPU, META)] == [False, True, False]


def test_values_are_readable_on_a_cpu_alone():
    assert can_read(torch.zeros(2))
    assert not can_read(torch.zeros(2, device="meta"))


def test_chunks_are_for_a_cpus_cache():
    assert rows_at_once(CPU, 64) == 64
    assert rows_at_once(CPU, None) is None
    assert rows_at_once(GPU, 64) is None


def test_a_gpu_becomes_current_where_it_has_a_number(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in (CPU, torch.device("cuda"), torch.device("cuda", 1)):
        use_gpu(device)
    assert chosen == [torch.device("cuda", 1)]


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_multiplies_in_bfloat16_where_asked(bf16, dtype):
    a = torch.rand(2, 2)
    with autocast(CPU, bf16):
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32
