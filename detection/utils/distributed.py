"""Distributed training: rank and world size from torchrun's environment variables, and process group helpers. Only this
module reads RANK and WORLD_SIZE."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_WAIT = timedelta(days=1)  # for what rank 0 does alone


def rank() -> int:
    """Return this process's rank; 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return the number of processes of the run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Return this process's rank on its machine, which is the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_leader() -> bool:
    """Return whether this is rank 0, which writes the files."""
    return rank() == 0


def is_distributed() -> bool:
    """Return whether a process group of more than one process is initialised."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def connect(device: torch.device) -> None:
    """Initialise the process group, if there is more than one process."""
    if world_size() > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def disconnect() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def share(tensors: Sequence[Tensor], name: str) -> None:
    """Copy rank 0's tensors into those of all other ranks, which wait for it up to a day. The processes must not be
    connected; they are not afterwards.

    Args:
        tensors: on the CPU, of the same shapes and dtypes on all ranks.
        name: of this exchange; each of a run needs its own.
    """
    if world_size() == 1:
        return
    # a store of its own name: addresses that this group leaves there would mislead the run's group
    store, own_rank, world = next(dist.rendezvous("env://", timeout=_WAIT))  # type: ignore[attr-defined]  # public, not in __all__
    store.set_timeout(_WAIT)
    store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=own_rank, world_size=world, timeout=_WAIT)
    try:
        for tensor in tensors:
            value = tensor.contiguous()  # ranks may differ in memory format, and bytes are what is sent
            dist.broadcast(value, 0)
            tensor.copy_(value)
    finally:
        dist.destroy_process_group()


def gather(rows: list[Any]) -> list[Any]:
    """Gather a list from all ranks on rank 0; other ranks get an empty list."""
    if not is_distributed():
        return rows
    parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(rows, parts)
    return [row for part in parts or () for row in part]
