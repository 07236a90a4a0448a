"""Check that losses are finite without making a GPU wait: asked after the backward pass was launched."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class FiniteCheck:
    """The mean of a loss over all processes, which must agree on what becomes of the step: non-finite where it is so in one.
    Making it needs no sync on a GPU; asking it waits for the loss, but not for what the GPU was given to do after it."""

    def __init__(self, loss: Tensor) -> None:
        loss = loss.float()
        if dist.is_initialized() and dist.get_world_size() > 1:
            loss = loss / dist.get_world_size()
            dist.all_reduce(loss)  # a sum with a NaN or an infinity in it is non-finite
        self.event = None
        if loss.device.type == "cuda":
            self.event = torch.cuda.Event()
            loss = torch.empty((), pin_memory=True).copy_(loss, non_blocking=True)
            self.event.record()
        self.value = loss

    def loss(self) -> float:
        if self.event is not None:
            self.event.synchronize()
        return float(self.value)


@dataclass(frozen=True)
class PendingCheck:
    """What is needed of a step should its losses be no numbers."""

    verdict: FiniteCheck
    batch: Any
    seed: int
    losses: dict[str, Tensor]
    before: dict[str, Tensor]
