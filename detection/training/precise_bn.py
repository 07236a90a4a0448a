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
    (appendix A). Afterwards every module is in the mode that it was in; after an exception the statistics are the earlier
    ones too.
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORM)]
    momenta = [norm.momentum for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    statistics = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
        model.train()
        with torch.no_grad():
            yield
    except BaseException:  # Ctrl-C too: averages over some of the batches are of no use
        for norm, before in zip(norms, statistics, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(before[name])
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
