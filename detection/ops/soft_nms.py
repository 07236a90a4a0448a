"""Greedy suppression a box at a time: soft-NMS (Bodla et al., 2017, figure 2), and NMS in the same loop.

Each turn takes the best remaining box, and lowers the scores of those that overlap it with IoU o:

    hard      s := 0           where o > iou
    linear    s := s (1 - o)   where o > iou
    gaussian  s := s exp(-o² / sigma)

A score that falls to the threshold or below is suppressed. Scores only fall, so the boxes come in the order of their final
scores, and the first ``limit`` turns give the best ``limit``: a fixed number of steps of fixed size, without a host-device
synchronisation, however many boxes and classes there are.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from detection.ops.boxes import at_least_float32
from detection.ops.boxes import iou as box_iou

Suppression = Literal["hard", "linear", "gaussian"]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    *,
    method: Suppression,
    iou: float,
    limit: int,
    sigma: float = 0.5,
    threshold: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the best boxes and their final scores, best first; where fewer are left, scores of 0 fill the end.

    Args:
        boxes: [N, 4] xyxy.
        scores: [N]; those at the threshold or below are no candidates (and may have any box).
        labels: int [N], boxes of different ones leave each other alone; None lets all suppress each other.
        method: hard, linear or gaussian.
        iou: of hard and linear.
        limit: boxes that are returned, or N if that is less.
        sigma: of gaussian (the paper: 0.5).
        threshold: see above.

    Returns:
        int64 [min(limit, N)], rows of the boxes, and their scores.

    Raises:
        ValueError: no such method.
    """
    if method not in get_args(Suppression):
        raise ValueError(f"method must be one of {', '.join(get_args(Suppression))}, got {method!r}")
    boxes, left = at_least_float32(boxes), torch.where(scores > threshold, scores, 0.0)
    rows, values = [], []
    for _ in range(min(limit, len(boxes))):
        best = left.argmax(dim=0, keepdim=True)  # a tensor, which is never read here
        rows.append(best)
        values.append(left[best])
        overlap = box_iou(boxes[best], boxes)[0]
        if labels is not None:
            overlap = torch.where(labels == labels[best], overlap, 0.0)
        left = left * _factor(overlap, method, iou, sigma)
        left = torch.where(left > threshold, left, 0.0).index_fill(0, best, 0.0)
    if not rows:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device), scores[:0]
    return torch.cat(rows), torch.cat(values)


def _factor(overlap: Tensor, method: Suppression, iou: float, sigma: float) -> Tensor:
    if method == "gaussian":
        return torch.exp(-overlap.square() / sigma)
    factor = torch.zeros_like(overlap) if method == "hard" else 1 - overlap
    return torch.where(overlap > iou, factor, 1.0)
