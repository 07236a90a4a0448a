"""Anchor coverage: the fraction of a dataset's boxes, resized as for training, that anchors match; better anchor sizes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detection.config import AnchorConfig, Config, ModelConfig
from detection.data.transforms import output_size
from detection.modeling.anchors import AnchorGenerator
from detection.modeling.build import anchor_generators
from detection.ops.boxes import larger_than

_IOUS = (0.5, 0.7)
_CHUNK = 100_000  # boxes compared at once
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
    best = best_overlaps(model, model.anchors.sizes, image_boxes)
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
    best = best_overlaps(model, sizes, image_boxes)
    return {str(threshold): float((best >= threshold).float().mean()) for threshold in _IOUS}


def best_overlaps(model: ModelConfig, sizes: Sequence[float], image_boxes: ImageBoxes) -> Tensor:
    """Return the IoU of each box with its best anchor, float32 [M].

    All anchors of a shape are centred on the positions of a grid. Their overlap with a box in x falls with the distance of
    the centres in x, and in y likewise, so that the nearest position has the best one: no other is looked at.
    """
    anchors = dataclasses.replace(model.anchors, sizes=tuple(sizes))
    generators = anchor_generators(dataclasses.replace(model, anchors=anchors))
    boxes = torch.cat([of_image for _, of_image in image_boxes])
    shapes = torch.tensor([size for size, _ in image_boxes]).repeat_interleave(
        torch.tensor([len(of_image) for _, of_image in image_boxes]), dim=0
    )
    chunks = zip(boxes.split(_CHUNK), shapes.split(_CHUNK), strict=True)
    return torch.cat([torch.stack([_best_of_map(g, *chunk) for g in generators]).amax(dim=0) for chunk in chunks])


def _best_of_map(generator: AnchorGenerator, boxes: Tensor, shapes: Tensor) -> Tensor:
    """Return the best IoU [n] of boxes [n, 4] with the anchors of one map of their images, (height, width) [n, 2]."""
    stride = generator.stride
    last = (shapes.flip(1) + stride - 1).div(stride, rounding_mode="floor") - 1  # column and row of the last position
    nearest = ((boxes[:, :2] + boxes[:, 2:]) / 2 / stride - generator.offset).round()
    position = (torch.minimum(nearest.clamp(min=0), last) + generator.offset) * stride
    anchors = generator.cell + position.repeat(1, 2)[:, None]  # [n, a, 4]
    overlap = torch.minimum(anchors[..., 2:], boxes[:, None, 2:]) - torch.maximum(anchors[..., :2], boxes[:, None, :2])
    intersection = overlap.clamp(min=0).prod(dim=-1)
    areas = [(corners[..., 2:] - corners[..., :2]).prod(dim=-1) for corners in (anchors, boxes[:, None])]
    return (intersection / (areas[0] + areas[1] - intersection)).amax(dim=1)
