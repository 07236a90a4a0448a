"""Check that losses are finite without stalling a GPU: the value is read after the backward pass was launched. And that
float16 holds the gradients: the scale of the loss."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from detection.ops.device import is_gpu
from detection.training.replay import NonFiniteLossError
from detection.utils.distributed import is_distributed

_LOWEST_SCALE = 2.0**-10  # of the loss in float16, which starts at 2^16 and is halved by each overflow


class FiniteCheck:
    """The mean of a loss over all processes, which must agree on what becomes of the step: non-finite where it is so in one.

    Making it needs no sync on a GPU; :meth:`loss` waits for the loss, but not for kernels that were launched after it.
    """

    def __init__(self, loss: Tensor) -> None:
        loss = loss.float()
        if is_distributed():
            loss = loss / dist.get_world_size()
            dist.all_reduce(loss)  # a sum with a NaN or an infinity in it is non-finite
        self.event = None
        if is_gpu(loss.device):
            self.event = torch.cuda.Event()
            loss = torch.empty((), pin_memory=True).copy_(loss, non_blocking=True)
            self.event.record()
        self.value = loss

    def loss(self) -> float:
        """Return the mean loss; waits for it."""
        if self.event is not None:
            self.event.synchronize()
        return float(self.value)


@dataclass(frozen=True)
class PendingCheck:
    """What is needed of a micro-batch should its losses be non-finite: the check, its batch, the seed of its samples, its
    losses, and those of the step's earlier micro-batches."""

    check: FiniteCheck
    batch: Any
    seed: int
    losses: dict[str, Tensor]
    before: dict[str, Tensor]


def non_finite_names(losses: dict[str, Tensor]) -> str:
    """Return the losses that are non-finite, with their values, for a message."""
    wrong = [f"{name}={float(value.detach()):g}" for name, value in losses.items() if not value.isfinite()]
    return ", ".join(wrong) or "finite in this process, non-finite in another"


def grad_scaler(trainer: Any) -> torch.amp.GradScaler | None:
    """Return the gradient scaler of a run in float16; None in other precisions, and without a trainer."""
    return getattr(getattr(trainer, "precision_plugin", None), "scaler", None)


def check_loss_scale(trainer: Any, step: int) -> None:
    """Check that a run in float16 takes its steps; a host-device synchronisation there.

    Raises:
        NonFiniteLossError: the gradients overflow at any scale of the loss. On all ranks, which have the same scale.
    """
    scaler = grad_scaler(trainer)
    if scaler is not None and (scale := scaler.get_scale()) < _LOWEST_SCALE:
        raise NonFiniteLossError(
            f"step {step}: the gradients overflow float16 even with the loss times {scale:.1g}, so that steps are left out; "
            "set solver.precision to bf16 or float32, or lower solver.base_lr"
        )
