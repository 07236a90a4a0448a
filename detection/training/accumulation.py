"""Gradient accumulation that takes the same step as the whole batch.

A step's images are computed in P micro-batches. The RoI losses are means over sampled regions, whose number n_p differs from
one micro-batch to the next (small images have few proposals). With s_p the sum over the regions of micro-batch p,

    the whole batch has          L = Σ_p s_p / Σ_p n_p
    accumulation would have      Σ_p (1/P) · s_p / n_p
    with w_p = n_p / mean(n)     L = Σ_p (1/P) · w_p · s_p / n_p

The w_p are known with the last micro-batch alone. Where one differs from 1, its micro-batch is computed once more: an
earlier one adds the gradient of the missing (w_p - 1)/P · s_p/n_p, the last one is weighted by its w_p. Example: with
n = (48, 16), w = (1.5, 0.5): the first micro-batch adds half of its loss again, the second counts half.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backbone.norm import BATCH_NORM
from detection.data.loader import Batch

# means over the sampled regions
REGION_LOSSES = ("loss_classifier", "loss_box")


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of a step: its images, the seed of its samples, how many regions it sampled, as a scalar tensor."""

    batch: Batch
    seed: int
    sampled: Tensor


def region_weights(micro_batches: list[MicroBatch]) -> list[float] | None:
    """Return w_p of each micro-batch, or None where all are 1; a host-device synchronisation."""
    counts = torch.stack([micro_batch.sampled for micro_batch in micro_batches]).cpu().double()
    weights: list[float] = (counts / counts.mean()).tolist()
    return None if all(weight == 1 for weight in weights) else weights


@contextlib.contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within, batch norms in training use a batch's statistics and leave their running ones as they are."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, BATCH_NORM) and module.training and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
