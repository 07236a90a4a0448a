"""Boxes: float32 xyxy in absolute pixels, x2 and y2 exclusive. Every other module may import this one."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Raise half precision, too coarse for boxes, scores and losses, to float32; double stays double."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def area(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Return width times height; 0 for a degenerate box."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def clip(boxes: Float[Tensor, "*batch 4"], size: tuple[int, int]) -> Float[Tensor, "*batch 4"]:
    """Cut boxes off at the edges of an image of ``size`` (height, width)."""
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def larger_than(boxes: Float[Tensor, "*batch 4"], min_size: float) -> Bool[Tensor, "*batch"]:
    """Return True where both sides are at least ``min_size`` pixels, and more than 0."""
    size = boxes[..., 2:] - boxes[..., :2]
    return (size >= min_size).all(-1) & (size > 0).all(-1)


def inside(boxes: Float[Tensor, "n 4"], size: tuple[int, int]) -> Bool[Tensor, " n"]:
    """Return True for boxes that do not cross the edge of an image of ``size`` (height, width)."""
    height, width = size
    low = (boxes[:, :2] >= 0).all(1)
    return low & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)


def iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Return the intersection over union of every pair; 0 where the union is empty."""
    size = torch.minimum(a[:, None, 2], b[:, 2]) - torch.maximum(a[:, None, 0], b[:, 0])
    intersection = size.clamp_(min=0)
    size = torch.minimum(a[:, None, 3], b[:, 3]) - torch.maximum(a[:, None, 1], b[:, 1])
    intersection = intersection.mul_(size.clamp_(min=0))
    union = (area(a)[:, None] + area(b)).sub_(intersection)
    return intersection.div_(union).nan_to_num_(nan=0.0)  # 0 / 0 alone: a bound on the union would lose tiny boxes


def xyxy_to_xywh(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Convert to COCO's left, top, width, height."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), dim=-1)
