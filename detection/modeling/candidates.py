"""Scored boxes of an image before NMS, and box voting (ResNet paper, appendix B; Gidaris and Komodakis, 2015)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detection.modeling.structures import Detections
from detection.ops.boxes import iou


@dataclass(frozen=True)
class Candidates:
    """Scored boxes of one image, in any order.

    Attributes:
        boxes: [n, 4] xyxy in its pixels.
        scores: [n]; 0 is padding.
        labels: int64 [n], 0..K-1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def candidates_of(scores: Tensor, boxes: Tensor) -> Candidates:
    """Return the candidates of scores [R, K] and boxes [R, K, 4]: each region is one for every class."""
    labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    return Candidates(boxes.flatten(0, 1), scores.flatten(), labels.flatten())


def union(parts: Sequence[Candidates]) -> Candidates:
    """Return all candidates of an image together."""
    boxes, scores, labels = zip(*((part.boxes, part.scores, part.labels) for part in parts), strict=True)
    return Candidates(torch.cat(boxes), torch.cat(scores), torch.cat(labels))


def vote(detections: Detections, candidates: Candidates, threshold: float = 0.0, overlap: float = 0.5) -> Detections:
    """Move each detection to the mean of the candidates of its class around it, weighted by their scores.

    Scores, labels and order stay, and there is no second NMS.

    Args:
        detections: after NMS; padded slots have a score of 0 and stay.
        candidates: before NMS, among them the detections.
        threshold: candidates need a higher score.
        overlap: and at least this IoU with the detection.

    Returns:
        Detections whose boxes are sum(score box) / sum(score).
    """
    boxes, labels = detections["boxes"], detections["labels"] - 1
    votes = (labels[:, None] == candidates.labels) & (candidates.scores > threshold)
    votes &= iou(boxes, candidates.boxes) >= overlap
    weights = torch.where(votes, candidates.scores, 0.0)
    total = weights.sum(dim=1, keepdim=True)
    usable = torch.where(candidates.boxes.isfinite(), candidates.boxes, 0.0)  # 0 times infinity is no number
    mean = weights @ usable / total
    kept = (total > 0) & (detections["scores"] > 0)[:, None]
    return {**detections, "boxes": torch.where(kept, mean, boxes)}
