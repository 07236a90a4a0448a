"""Which of a data set's boxes the anchors match, at the size at which training sees them, and sizes that match more."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detection.config import AnchorConfig, Config, ModelConfig
from detection.data.transforms import output_size
from detection.modeling.build import anchor_generators
from detection.modeling.matcher import MAX_PAIRS
from detection.ops.boxes import iou, larger_than

_IOUS = (0.5, 0.7)
_GAIN = 0.01  # of the share at the first of them, by which other sizes are worth a word
Seen = list[tuple[tuple[int, int], Tensor]]


def seen_boxes(config: Config, pictures: Sequence[tuple[tuple[int, int], Sequence[Sequence[float]]]]) -> Seen:
    """Pictures and their boxes after the configuration's resize (the largest of its short sides).

    Args:
        pictures: of each its (height, width) and its boxes, xyxy in pixels; those without area are left out.
    """
    seen = []
    for size, own in pictures:
        boxes = torch.tensor(own, dtype=torch.float32).reshape(-1, 4)
        boxes = boxes[larger_than(boxes, 0.0) & boxes.isfinite().all(dim=1)]
        if len(boxes):
            to = output_size(*size, config.data.short_side[-1], config.data.max_side)
            seen.append((to, boxes * torch.tensor([to[1] / size[1], to[0] / size[0]] * 2)))
    return seen


def anchor_fit(model: ModelConfig, seen: Seen) -> dict[str, Any]:
    """The share of boxes whose best anchor reaches an IoU of 0.5 and of 0.7, and, where as many other sizes reach 0.5 for a
    hundredth more of them, these."""
    if not seen:
        return {"boxes": 0}
    if not model.anchors.sizes:
        sizes, *_ = best_sizes(model, seen)
        model = dataclasses.replace(model, anchors=dataclasses.replace(model.anchors, sizes=sizes))
    sides = _sides(seen)
    sizes = model.anchors.sizes
    matched = _matched(model, sizes, seen)
    better = _spread(sides, len(sizes))
    would = _matched(model, better, seen)
    gain = would[str(_IOUS[0])] - matched[str(_IOUS[0])]
    return {
        "boxes": len(sides),
        "sides": np.quantile(sides, (0.1, 0.5, 0.9)).tolist(),
        "sizes": list(sizes),
        "matched": matched,
        "suggestion": {"sizes": better, "matched": would} if gain > _GAIN else None,
    }


def best_sizes(model: ModelConfig, seen: Seen) -> tuple[tuple[float, ...], float, float]:
    """Return the five anchor sizes that match more boxes at IoU 0.5, the usual ones or five spread over the boxes' own; the
    fraction that they match; and the fraction that the usual ones do."""
    usual = AnchorConfig().sizes
    own = tuple(_spread(_sides(seen), len(usual)))
    fractions = [_matched(model, sizes, seen)[str(_IOUS[0])] for sizes in (usual, own)]
    better = fractions[1] > fractions[0] + _GAIN
    return own if better else usual, fractions[better], fractions[0]


def _sides(seen: Seen) -> NDArray[np.float64]:
    """Square roots of the boxes' areas, in pixels."""
    every = torch.cat([boxes for _, boxes in seen])
    return (every[:, 2:] - every[:, :2]).prod(dim=1).sqrt().double().numpy()


def _spread(sides: NDArray[np.float64], count: int) -> list[float]:
    """Sizes in equal steps of scale between the smallest and the largest twentieth of ``sides``, at least a pixel apart."""
    low, high = np.quantile(sides, (0.05, 0.95))
    low = max(float(low), 1.0)
    return [float(v) for v in np.geomspace(low, max(float(high), 1.01 * low), count).round()]


def _matched(model: ModelConfig, sizes: Sequence[float], seen: Seen) -> dict[str, float]:
    make = _anchors_of(model, sizes)
    best = torch.cat([_best(boxes, make(size)) for size, boxes in seen])
    return {str(threshold): float((best >= threshold).float().mean()) for threshold in _IOUS}


def _best(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The highest IoU of each box; not all pairs at once, since a crowd against a pyramid's anchors would be gigabytes."""
    return torch.cat([iou(some, anchors).amax(dim=1) for some in boxes.split(max(1, MAX_PAIRS // len(anchors)))])


def _anchors_of(model: ModelConfig, sizes: Sequence[float]) -> Callable[[tuple[int, int]], Tensor]:
    """All anchors of a picture by its (height, width)."""
    anchors = dataclasses.replace(model.anchors, sizes=tuple(sizes))
    generators = anchor_generators(dataclasses.replace(model, anchors=anchors))

    @functools.lru_cache(64)  # most pictures of a set share a few sizes
    def all_of(size: tuple[int, int]) -> Tensor:
        return torch.cat([g(-(-size[0] // g.stride), -(-size[1] // g.stride)) for g in generators])

    return all_of
