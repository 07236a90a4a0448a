"""Distributed training: rank and world size from torchrun's environment variables, and process group helpers. Only this
module reads RANK and WORLD_SIZE."""

import os
from typing import Any

import torch
import torch.distributed as dist


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


def run_device() -> torch.device:
    """Return this process's GPU, set as the current device, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device


def connect(device: torch.device) -> None:
    """Initialise the process group, if there is more than one process."""
    if world_size() > 1:
        dist.init_process_group("gloo" if device == torch.device("cpu") else "nccl")


def disconnect() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def gather(rows: list[Any]) -> list[Any]:
    """Gather a list from all ranks on rank 0; other ranks get an empty list."""
    if not is_distributed():
        return rows
    parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(rows, parts)
    return [row for part in parts or () for row in part]
