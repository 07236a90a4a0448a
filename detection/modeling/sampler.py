"""Which labelled boxes a loss sees: a fixed number with a bounded fraction of foreground."""

from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from detection.modeling.matcher import BACKGROUND, FOREGROUND, IGNORED


class Sampler(Protocol):
    """A part of the RPN and of the RoI head; replace it to fix what is sampled."""

    quota: int

    def __call__(self, label: Int[Tensor, " n"], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return (index, kind): at most ``quota`` positions (int64) in ``label``, the foreground first, and what each counts
        as: FOREGROUND, BACKGROUND, or IGNORED for padding."""


class RandomSampler:
    """Draws without replacement; background fills what the foreground leaves, and padding what both leave.

    Args:
        quota: boxes per image (256 anchors; 128 or 512 RoIs).
        fraction: at most this fraction is foreground (0.5; 0.25).
    """

    def __init__(self, quota: int, fraction: float) -> None:
        self.quota, self.fraction = quota, fraction

    def __call__(self, label: Int[Tensor, " n"], generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        # every candidate draws a key in 0..1, and the highest are taken; others have -1
        key = torch.rand(len(label), generator=generator, device=label.device)
        foreground = torch.where(label == FOREGROUND, key, -1.0)
        most = min(int(self.quota * self.fraction), len(label))
        drawn, position = foreground.topk(most)
        key = torch.where(label == BACKGROUND, key, -1.0)
        key = key.scatter(0, position, torch.where(drawn >= 0, drawn + 2.0, key[position]))
        drawn, index = key.topk(min(self.quota, len(label)))
        kind = (drawn >= 2.0).to(torch.int8) * (FOREGROUND - BACKGROUND) + BACKGROUND
        return index, torch.where(drawn < 0, IGNORED, kind)


def sample(
    sampler: Sampler, label: Int[Tensor, " n"], generator: torch.Generator | None, padded: bool
) -> tuple[Tensor, Tensor]:
    """Return what ``sampler`` draws; without its padding unless ``padded``."""
    index, kind = sampler(label, generator)
    if padded:
        return index, kind
    filled = kind != IGNORED
    return index[filled], kind[filled]
