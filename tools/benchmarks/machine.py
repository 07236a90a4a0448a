"""Measure the machine's rates, and the operations, memory traffic and synchronisations of a step."""

import os
import platform
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

try:
    import resource
except ImportError:  # Windows
    resource = None

# a square one, and the tall shapes of this detector's convolutions
_SHAPES = ((2048, 2048, 2048), (14700, 512, 1024), (4096, 1024, 1024))


def machine() -> str:
    """Return the processor and the library versions as text."""
    if torch.cuda.is_available():
        chip = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
        chip = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
        )
        chip += f", {os.cpu_count()} cores"
    return f"{chip}; torch {torch.__version__}, torchvision {torchvision.__version__}"


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process in MB; NaN on Windows, where Python cannot tell."""
    if resource is None:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def matrix_rate(device: torch.device) -> float:
    """Return the FLOP/s of float32 matrix multiplication, the maximum over several shapes and repetitions."""
    best = 0.0
    for m, n, k in _SHAPES:
        a, b = torch.rand(m, k, device=device), torch.rand(k, n, device=device)
        for _ in range(4):
            best = max(best, 2 * m * n * k / seconds(lambda a=a, b=b: torch.mm(a, b), device))
    return best


def copy_rate(device: torch.device) -> float:
    """Return the bytes per second read and written by a copy much larger than the cache."""
    a = torch.rand(2**26, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / min(seconds(lambda: b.copy_(a), device) for _ in range(6))


def work(step: Callable[[], Any]) -> tuple[int, int]:
    """Return a step's FLOP of matrix products and convolutions, and the bytes of its operations' inputs and outputs."""
    traffic = _Traffic()
    with FlopCounterMode(display=False) as operations, traffic:
        step()
    return operations.get_total_flops(), traffic.bytes


def count_syncs(step: Callable[[], Any]) -> int:
    """Return the number of host-device synchronisations in a step."""
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile() as profile:
        step()
    # cudaDeviceSynchronize is not counted: the profiler calls it at its end
    return sum(event.count for event in profile.key_averages() if event.key == "cudaStreamSynchronize")


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that a function takes on a device."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(x.nbytes for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
        return out
