"""Which labelled boxes a loss sees: a fixed number with a bounded share of foreground."""

from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from detection.matching import BACKGROUND, FOREGROUND


class Sampler(Protocol):
    """A part of the RPN and of the RoI head; replace it to fix what is sampled."""

    quota: int

    def __call__(self, label: Int[Tensor, " n"], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Returns (foreground, background): positions (int64) into ``label``."""


class RandomSampler:
    """Draws without replacement; background fills what the foreground leaves.

    Args:
        quota: boxes an image (256 anchors; 128 or 512 RoIs).
        fraction: at most this share is foreground (0.5; 0.25).
    """

    def __init__(self, quota: int, fraction: float) -> None:
        self.quota, self.fraction = quota, fraction

    def __call__(self, label: Int[Tensor, " n"], generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        foreground = (label == FOREGROUND).nonzero()[:, 0]
        background = (label == BACKGROUND).nonzero()[:, 0]
        foreground = _draw(foreground, int(self.quota * self.fraction), generator)
        return foreground, _draw(background, self.quota - len(foreground), generator)


def _draw(index: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    order = torch.randperm(len(index), generator=generator, device=index.device)
    return index[order[:count]]
