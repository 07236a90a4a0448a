"""Choices by device that are not a kernel's own: padded or compact results, autocast, where values can be read."""

import torch
from torch import Tensor


def use_padding(padded: bool | None, device: torch.device) -> bool:
    """Return whether results have a fixed number of slots; None picks the padded form everywhere but on a CPU.

    The compact form has data-dependent shapes, for which a GPU needs a host-device synchronisation; on a CPU, where there is
    nothing to wait for, padding would be extra work.
    """
    return device.type != "cpu" if padded is None else padded


def is_gpu(device: torch.device) -> bool:
    """Return whether CUDA's events, graphs and memory statistics exist for the device."""
    return device.type == "cuda"


def use_gpu(device: torch.device) -> None:
    """Make a GPU the current one, where the device names one by number ("cuda" alone means the current one)."""
    if is_gpu(device) and device.index is not None:
        torch.cuda.set_device(device)


def can_read(x: Tensor) -> bool:
    """Return whether the values of ``x`` can be read without a host-device synchronisation."""
    return x.device.type == "cpu"


def rows_at_once(device: torch.device, chunk_size: int | None) -> int | None:
    """Return how many rows a head takes at a time: ``chunk_size`` on a CPU, whose cache they fit in; None, all, on GPUs."""
    return chunk_size if device.type == "cpu" else None


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """Return the autocast context of a device, in bfloat16 where ``bf16`` is true."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
