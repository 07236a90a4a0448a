"""Precise batch norm: recompute running statistics for the current weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from backbone.norm import BATCH_NORM


@contextmanager
def precise_bn_statistics(model: nn.Module) -> Iterator[None]:
    """Recompute batch norm statistics as plain averages over the forward passes inside the context.

    The moving averages of training lag behind the weights; the ResNet paper recomputes them before it freezes batch norms
    (appendix A).
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORM)]
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.train()
    with torch.no_grad():
        yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
