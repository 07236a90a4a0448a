"""The machine: its name, its limits, and what a step asks of it."""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# square, and as convolutions of this detector have them: many rows, few columns
_SHAPES = ((2048, 2048, 2048), (14700, 512, 1024), (4096, 1024, 1024))


def machine() -> str:
    """The machine and the versions, for a table's caption."""
    if torch.cuda.is_available():
        chip = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        chip = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
        )
        chip += f", {os.cpu_count()} cores"
    return f"{chip}; torch {torch.__version__}, torchvision {torchvision.__version__}"


def peak_rss_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def matrix_rate(device: torch.device) -> float:
    """Multiplications and additions a second of float32 matrix products: the best of several shapes and tries."""
    best = 0.0
    for m, n, k in _SHAPES:
        a, b = torch.rand(m, k, device=device), torch.rand(k, n, device=device)
        for _ in range(4):
            best = max(best, 2 * m * n * k / seconds(lambda a=a, b=b: torch.mm(a, b), device))
    return best


def copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by a copy far larger than the cache."""
    a = torch.rand(2**26, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / min(seconds(lambda: b.copy_(a), device) for _ in range(6))


def work(step: Callable[[], Any]) -> tuple[int, int]:
    """Multiplications and additions of a step's products and convolutions, and the bytes that its operations read and write
    where each goes to memory and back."""
    traffic = _Traffic()
    with FlopCounterMode(display=False) as operations, traffic:
        step()
    return operations.get_total_flops(), traffic.bytes


def waits(step: Callable[[], Any]) -> int:
    """How often the host waits for a GPU in a step."""
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile() as profile:
        step()
    # the profiler itself waits for the device, at its end
    return sum(event.count for event in profile.key_averages() if event.key == "cudaStreamSynchronize")


def seconds(act: Callable[[], Any], device: torch.device) -> float:
    """How long an act takes on a device."""
    began = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(x.nbytes for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
        return out
