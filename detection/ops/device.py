"""Choices by device that are not a kernel's own: which device, padded or compact results, autocast, where values can be
read."""

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms, roi_align

_LOG = logging.getLogger(__name__)


def default_device(index: int | None = None, processes: int = 1) -> torch.device:
    """Return the device to compute on where none is named: a GPU, Apple's GPU (MPS), or the CPU.

    Args:
        index: of the GPU; None means the current one.
        processes: of the run. Apple's GPU is for a single one: torch's process groups do not reach it.
    """
    if torch.cuda.is_available():
        return torch.device("cuda") if index is None else torch.device("cuda", index)
    if processes == 1 and torch.backends.mps.is_available() and mps_works():
        return torch.device("mps")
    return torch.device("cpu")


@functools.cache
def mps_works() -> bool:
    """Return whether Apple's GPU computes what a detector is made of as a CPU does; warn if not."""
    try:
        differing = [name for name, (here, there) in _mps_cases().items() if not torch.allclose(here, there, atol=1e-3)]
        problem = f"{', '.join(differing)} differ from a CPU's" if differing else ""
    except Exception as error:  # an operator that this version of torch or torchvision lacks there
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
    if problem:
        _LOG.warning("Apple's GPU is not used: %s. The CPU is; a newer torch and torchvision may help", problem)
    return not problem


def _mps_cases() -> dict[str, tuple[Tensor, Tensor]]:
    """Return results of a CPU and of Apple's GPU, both on the CPU, by the operator's name."""
    generator = torch.Generator().manual_seed(0)
    image, weight = torch.rand(1, 3, 24, 24, generator=generator), torch.rand(8, 3, 3, 3, generator=generator)
    corner = torch.rand(40, 2, generator=generator) * 16
    boxes = torch.cat((corner, corner + 1 + torch.rand(40, 2, generator=generator) * 7), dim=1)
    scores = torch.linspace(1, 0, 40)

    def run(device: str) -> dict[str, Tensor]:
        kernel = weight.to(device, memory_format=torch.channels_last).requires_grad_()
        features = F.conv2d(image.to(device, memory_format=torch.channels_last), kernel, padding=1)
        regions = torch.cat((torch.zeros(40, 1), boxes), dim=1).to(device)
        pooled = roi_align(features, regions, 2, 1.0, 2, True)
        pooled.square().mean().backward()  # type: ignore[no-untyped-call]
        assert kernel.grad is not None
        kept = nms(boxes.to(device), scores.to(device), 0.5).sort().values
        order = (-scores.to(device)).argsort(stable=True)
        results = {"conv2d": features, "roi_align": pooled, "backward": kernel.grad, "nms": kept, "argsort": order}
        return {name: value.detach().to("cpu", torch.float32) for name, value in results.items()}

    here, there = run("cpu"), run("mps")
    return {name: (here[name], there[name]) for name in here}


def use_padding(padded: bool | None, device: torch.device) -> bool:
    """Return whether results have a fixed number of slots; None picks the padded form everywhere but on a CPU.

    The compact form has data-dependent shapes, for which a GPU needs a host-device synchronisation; on a CPU, where there is
    nothing to wait for, padding would be extra work.
    """
    return device.type != "cpu" if padded is None else padded


def is_gpu(device: torch.device) -> bool:
    """Return whether CUDA's events, graphs and memory statistics exist for the device."""
    return device.type == "cuda"


def memory_gb(device: torch.device) -> float:
    """Return a GPU's memory in GiB; 0 for other devices."""
    return float(torch.cuda.get_device_properties(device).total_memory) / 2**30 if is_gpu(device) else 0.0


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given: for measuring time."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def use_gpu(device: torch.device) -> None:
    """Make a GPU the current one, where the device names one by number ("cuda" alone means the current one).

    Raises:
        ValueError: this machine, or this build of torch, has no such GPU.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} is wanted, and torch {torch.__version__} finds no GPU here: take cpu")
    if is_gpu(device) and device.index is not None:
        torch.cuda.set_device(device)


def can_read(x: Tensor) -> bool:
    """Return whether the values of ``x`` can be read without a host-device synchronisation."""
    return x.device.type == "cpu"


def images_at_once(run: Callable[[], object], device: torch.device, most: int = 16) -> int:
    """Return how many images the free memory of a GPU holds at once, from the peak of ``run``, which takes one; 1 on other
    devices, where more at once are no faster."""
    if not is_gpu(device):
        return 1
    run()  # libraries' workspaces and kernels come with the first
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    each = max(torch.cuda.max_memory_allocated(device) - before, 1)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - before
    return int(max(1, min(most, free * 0.7 // each)))


def rows_at_once(device: torch.device, chunk_size: int | None) -> int | None:
    """Return how many rows a head takes at a time: ``chunk_size`` on a CPU, whose cache they fit in; None, all, on GPUs.

    All in float16 too: a chunk's gradient is taken before a gradient scaler has raised the loss, and would underflow.
    """
    if device.type != "cpu" or (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16):
        return None
    return chunk_size


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which a device multiplies in ``dtype``: float32, or by autocast bfloat16 or float16."""
    half = dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(device.type, dtype if half else torch.bfloat16, enabled=half)
