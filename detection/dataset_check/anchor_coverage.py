"""Anchor coverage: the fraction of a dataset's boxes, resized as for training, that anchors match; better anchor sizes."""

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
_MIN_GAIN = 0.01  # in the fraction at the first IoU, for other sizes to be suggested
ImageBoxes = list[tuple[tuple[int, int], Tensor]]  # (height, width) and boxes [n, 4] of each image


def resized_boxes(config: Config, images: Sequence[tuple[tuple[int, int], Sequence[Sequence[float]]]]) -> ImageBoxes:
    """Rescale boxes to the images resized as configured, with the largest short side.

    Args:
        config: of the run.
        images: (height, width) and boxes, xyxy in pixels, of each; degenerate and non-finite boxes are dropped.

    Returns:
        Size and boxes float32 [n, 4] of each resized image that has a box.
    """
    result = []
    for size, coordinates in images:
        boxes = torch.tensor(coordinates, dtype=torch.float32).reshape(-1, 4)
        boxes = boxes[larger_than(boxes, 0.0) & boxes.isfinite().all(dim=1)]
        if len(boxes):
            new = output_size(*size, config.data.short_side[-1], config.data.max_side)
            result.append((new, boxes * torch.tensor([new[1] / size[1], new[0] / size[0]] * 2)))
    return result


def anchor_coverage(model: ModelConfig, image_boxes: ImageBoxes) -> dict[str, Any]:
    """Return the fraction of boxes whose best anchor has an IoU of at least 0.5 and 0.7.

    Suggests other sizes, as many as configured, where they match 1% more of the boxes at IoU 0.5.
    """
    if not image_boxes:
        return {"boxes": 0}
    if not model.anchors.sizes:
        sizes, *_ = best_anchor_sizes(model, image_boxes)
        model = dataclasses.replace(model, anchors=dataclasses.replace(model.anchors, sizes=sizes))
    sides = _sides(image_boxes)
    sizes = model.anchors.sizes
    matched = _matched_fractions(model, sizes, image_boxes)
    suggested_sizes = _spread_sizes(sides, len(sizes))
    suggested_matched = _matched_fractions(model, suggested_sizes, image_boxes)
    gain = suggested_matched[str(_IOUS[0])] - matched[str(_IOUS[0])]
    return {
        "boxes": len(sides),
        "sides": np.quantile(sides, (0.1, 0.5, 0.9)).tolist(),
        "sizes": list(sizes),
        "matched": matched,
        "suggestion": {"sizes": suggested_sizes, "matched": suggested_matched} if gain > _MIN_GAIN else None,
    }


def unreached(model: ModelConfig, image_boxes: ImageBoxes) -> list[tuple[int, float, float]]:
    """Return the boxes whose best anchor is background by its IoU: the RPN learns them from that one anchor alone.

    Returns:
        Position among all boxes, IoU of the best anchor, and square root of the area in pixels, of each.
    """
    if not image_boxes:
        return []
    if not model.anchors.sizes:
        sizes, *_ = best_anchor_sizes(model, image_boxes)
        model = dataclasses.replace(model, anchors=dataclasses.replace(model.anchors, sizes=sizes))
    anchors_for = _anchor_function(model, model.anchors.sizes)
    best = torch.cat([_best_iou(boxes, anchors_for(size)) for size, boxes in image_boxes])
    sides = _sides(image_boxes)
    rows = (best < model.rpn.background_iou).nonzero().flatten().tolist()
    return [(k, float(best[k]), float(sides[k])) for k in rows]


def best_anchor_sizes(model: ModelConfig, image_boxes: ImageBoxes) -> tuple[tuple[float, ...], float, float]:
    """Choose between the default anchor sizes and as many sizes spread over the boxes of the dataset.

    Returns:
        The sizes that match more boxes at IoU 0.5, the fraction that they match, and the fraction that the default sizes
        match.
    """
    default = AnchorConfig().sizes
    spread = tuple(_spread_sizes(_sides(image_boxes), len(default)))
    fractions = [_matched_fractions(model, sizes, image_boxes)[str(_IOUS[0])] for sizes in (default, spread)]
    better = fractions[1] > fractions[0] + _MIN_GAIN
    return spread if better else default, fractions[better], fractions[0]


def _sides(image_boxes: ImageBoxes) -> NDArray[np.float64]:
    """Return the square roots of all boxes' areas, in pixels."""
    boxes = torch.cat([boxes for _, boxes in image_boxes])
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt().double().numpy()


def _spread_sizes(sides: NDArray[np.float64], count: int) -> list[float]:
    """Return ``count`` sizes, geometrically spaced between the 5% and 95% quantiles of ``sides``, rounded to pixels."""
    low, high = np.quantile(sides, (0.05, 0.95))
    low = max(float(low), 1.0)
    return [float(v) for v in np.geomspace(low, max(float(high), 1.01 * low), count).round()]


def _matched_fractions(model: ModelConfig, sizes: Sequence[float], image_boxes: ImageBoxes) -> dict[str, float]:
    """Return the fraction of boxes matched at each of ``_IOUS``."""
    anchors_for = _anchor_function(model, sizes)
    best = torch.cat([_best_iou(boxes, anchors_for(size)) for size, boxes in image_boxes])
    return {str(threshold): float((best >= threshold).float().mean()) for threshold in _IOUS}


def _best_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the highest IoU of each box, in chunks: a crowded image with the anchors of an FPN would take gigabytes."""
    return torch.cat([iou(chunk, anchors).amax(dim=1) for chunk in boxes.split(max(1, MAX_PAIRS // len(anchors)))])


def _anchor_function(model: ModelConfig, sizes: Sequence[float]) -> Callable[[tuple[int, int]], Tensor]:
    """Return a function from an image's (height, width) to all its anchors."""
    anchors = dataclasses.replace(model.anchors, sizes=tuple(sizes))
    generators = anchor_generators(dataclasses.replace(model, anchors=anchors))

    @functools.lru_cache(64)  # most images of a dataset share a few sizes
    def anchors_for(size: tuple[int, int]) -> Tensor:
        return torch.cat([g(-(-size[0] // g.stride), -(-size[1] // g.stride)) for g in generators])

    return anchors_for
