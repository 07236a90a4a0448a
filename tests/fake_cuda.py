"""A fake GPU, to run the CUDA branches of commands on a CPU.

Tensors requested on "cuda" are created on the CPU; torch's functions check their arguments as on a GPU, so that
``torch.cuda.set_device("cuda")`` raises as it does there.
"""

import contextlib

import torch
from torch.cuda._utils import _get_device_index
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


def _on_cpu(x, kind):
    if isinstance(x, torch.device) and x.type == kind:
        return torch.device("cpu")
    return "cpu" if isinstance(x, str) and (x == kind or x.startswith(f"{kind}:")) else x


class OnCpu(TorchFunctionMode):
    """Replaces the device "cuda", or another kind, by the CPU in all torch functions, and counts the replacements."""

    def __init__(self, kind="cuda"):
        super().__init__()
        self.kind, self.moved = kind, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.device:  # devices may be constructed; only tensors cannot be on them
            return func(*args, **kwargs)
        if func is torch.Tensor.cuda:
            self.moved += 1
            return args[0]
        devices = []

        def replace(x):
            here = _on_cpu(x, self.kind)
            if here is not x:
                devices.append(x)
            return here

        replaced = tree_map(replace, (args, kwargs))
        self.moved += len(devices)
        return func(*replaced[0], **replaced[1])


def on_cpu(kind):
    """Return a context in which tensors requested on a kind of device are created on the CPU."""
    return OnCpu(kind)


class Calls:
    """Recorded calls of torch.cuda."""

    def __init__(self):
        self.set_device = []
        self.mode = OnCpu()


@contextlib.contextmanager
def one_gpu(monkeypatch):
    """Make torch find one GPU inside the context."""
    calls = Calls()

    def set_device(device):
        # the check of torch.cuda.set_device: a number, or a device with its number
        calls.set_device.append(_get_device_index(device))
        assert calls.set_device[-1] == 0, "there is one GPU"

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "set_device", set_device)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "fake GPU")
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: _get_device_index(device, optional=True))
        for name in ("memory_allocated", "memory_reserved", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda device=None: _get_device_index(device, optional=True))
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**30, 2**30))
        patch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", lambda data, device=None: data)
        for name in (
            "_accelerator_graph_capture_health_check",
            "_cuda_graph_capture_health_check",
        ):  # it asks the driver
            patch.setattr(torch.optim.Optimizer, name, lambda self: None, raising=False)
        with calls.mode:
            yield calls
