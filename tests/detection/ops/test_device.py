import pytest
import torch
from fake_cuda import on_cpu

from detection.ops import device
from detection.ops.device import (
    autocast,
    can_read,
    default_device,
    is_gpu,
    mps_works,
    rows_at_once,
    use_gpu,
    use_padding,
)

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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpu in (CPU, torch.device("cuda"), torch.device("cuda", 1)):
        use_gpu(gpu)
    assert chosen == [torch.device("cuda", 1)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    use_gpu(CPU)
    with pytest.raises(ValueError, match=r"device 'cuda' is wanted.*finds no GPU here: take cpu"):
        use_gpu(torch.device("cuda"))


def test_a_float16_head_takes_all_rows():
    with torch.autocast("cpu", torch.float16):
        assert rows_at_once(CPU, 64) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert rows_at_once(CPU, 64) == 64


def available(monkeypatch, cuda=False, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "arguments", "wanted"),
    [
        (False, False, {}, "cpu"),
        (True, False, {}, "cuda"),
        (True, False, {"index": 3, "processes": 4}, "cuda:3"),
        (False, True, {}, "mps"),
        (False, True, {"processes": 2}, "cpu"),  # gloo and nccl do not know it
    ],
)
def test_the_default_is_the_fastest_device(monkeypatch, cuda, mps, arguments, wanted):
    available(monkeypatch, cuda, mps)
    monkeypatch.setattr(device, "mps_works", lambda: True)
    assert default_device(**arguments) == torch.device(wanted)


@pytest.fixture
def fresh():
    mps_works.cache_clear()
    yield
    mps_works.cache_clear()


def test_apples_gpu_is_used_where_it_computes_as_a_cpu(monkeypatch, fresh, caplog):
    """There is no Apple's GPU here: the CPU stands in for it."""
    available(monkeypatch, mps=True)
    with on_cpu("mps") as mode:
        assert default_device() == torch.device("mps")
    assert mode.moved > 5
    assert caplog.text == ""


@pytest.mark.parametrize("lacking", ["torchvision::nms", "torchvision::roi_align", "aten::conv2d"])
def test_apples_gpu_without_an_operator_is_left_out_with_a_message(monkeypatch, fresh, caplog, lacking):
    available(monkeypatch, mps=True)

    def refuse(*args, **kwargs):
        raise NotImplementedError(f"The operator '{lacking}' is not currently implemented for the MPS device.\nmore")

    name = lacking.partition("::")[2]
    there = getattr(device.F if name == "conv2d" else device, name)

    def only_on_a_cpu(*args, **kwargs):
        return refuse() if mode.moved else there(*args, **kwargs)

    monkeypatch.setattr(device.F if name == "conv2d" else device, name, only_on_a_cpu)
    with on_cpu("mps") as mode:
        assert default_device() == CPU
        assert default_device() == CPU
    (message,) = caplog.messages  # once
    assert f"Apple's GPU is not used: The operator '{lacking}'" in message
    assert "more" not in message


def test_apples_gpu_with_wrong_results_is_left_out_with_a_message(monkeypatch, fresh, caplog):
    available(monkeypatch, mps=True)
    there = device.nms
    monkeypatch.setattr(device, "nms", lambda *args: there(*args).flip(0) * (0 if mode.moved else 1))
    with on_cpu("mps") as mode:
        assert default_device() == CPU
    assert "nms differ from a CPU's" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_autocast_multiplies_in_the_dtype(dtype):
    a = torch.rand(2, 2)
    with autocast(CPU, dtype):
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32
