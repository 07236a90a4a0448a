"""What batch norms hold when they are fixed: statistics measured for the weights as they are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from backbone.norm import BATCH_NORM


@contextmanager
def measuring_statistics(model: nn.Module) -> Iterator[None]:
    """Within, forward passes measure the batch norms of ``model`` anew, as means over all of them, as the ResNet paper does
    before it fixes them (appendix A): the running averages of training lag behind the weights."""
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORM)]
    before = [norm.momentum for norm in norms]
    was_training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean of all
    model.train()
    with torch.no_grad():
        yield
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.train(was_training)
