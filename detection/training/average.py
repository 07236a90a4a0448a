"""The moving average of the weights (solver.ema): torch's AveragedModel without a host-device synchronisation per step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """An exponential moving average of a model's parameters and buffers.

    torch's class reads its counter, a buffer on the GPU, in every update. Here the first update of a process is torch's,
    which copies the weights or continues a resumed average; the later ones read nothing.

    Args:
        model: copied.
        decay: fraction of the average that an update keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.requires_grad_(False)  # DDP would wait for its gradients
        self._started = False

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        if not self._started:
            super().update_parameters(model)
            self._started = True
            return
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        averaged = (*self.module.parameters(), *self.module.buffers())
        for average, current in zip(averaged, (*model.parameters(), *model.buffers()), strict=True):
            averages, currents = groups.setdefault(average.dtype, ([], []))
            averages.append(average)
            currents.append(current)
        assert self.multi_avg_fn is not None
        for averages, currents in groups.values():
            self.multi_avg_fn(averages, currents, self.n_averaged)  # type: ignore[arg-type]  # lists are invariant
        self.n_averaged += 1

    def _load_from_state_dict(self, *args: Any) -> None:
        self._started = False  # the counter may be another
        super()._load_from_state_dict(*args)
