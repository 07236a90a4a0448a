"""Transforms of images and their boxes: resize, horizontal flip, clipping.

Images are uint8 [3, H, W] tensors, boxes float32 [n, 4] xyxy in pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detection.ops.boxes import clip, larger_than


def output_size(
    height: int, width: int, short_side: int, max_side: int, within: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Return the (height, width) of a resized image, as detectron2's ResizeShortestEdge.

    The shorter side becomes ``short_side``, or less where the longer would exceed ``max_side``, or where the result would
    not lie within the (height, width) ``within``.
    """
    scale = short_side / min(height, width)
    new_h, new_w = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(new_h, new_w) > max_side:
        scale = max_side / max(new_h, new_w)
        new_h, new_w = new_h * scale, new_w * scale
    new_h, new_w = max(int(new_h + 0.5), 1), max(int(new_w + 0.5), 1)
    if within is not None and (new_h > within[0] or new_w > within[1]):
        scale = min(within[0] / new_h, within[1] / new_w)
        new_h, new_w = (
            max(min(int(new_h * scale + 0.5), within[0]), 1),
            max(min(int(new_w * scale + 0.5), within[1]), 1),
        )
    return new_h, new_w


def resize(
    image: Tensor, boxes: Tensor, short_side: int, max_side: int, within: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Resize an image and its boxes to :func:`output_size`, bilinear with antialiasing as Pillow's."""
    height, width = image.shape[-2:]
    size = output_size(height, width, short_side, max_side, within)
    if size != (height, width):
        image = F.resize(image, list(size), antialias=True)
        boxes = boxes * boxes.new_tensor([size[1] / width, size[0] / height] * 2)
    return image, boxes


def at_scales(image: Tensor, scales: Sequence[int], short_side: int, max_side: int) -> list[Tensor]:
    """Return an image resized to each of several short sides, the smallest first, once each.

    Args:
        image: uint8 [3, H, W] at its original size.
        scales: short sides in pixels.
        short_side, max_side: the base scale: longer sides are limited in the same proportion.
    """
    no_boxes = torch.zeros(0, 4)
    return [
        resize(image, no_boxes, scale, round(max_side * scale / short_side))[0].contiguous()
        for scale in sorted(set(scales))
    ]


def flip(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Flip an image and its boxes horizontally."""
    width = image.shape[-1]
    x1, y1, x2, y2 = boxes.unbind(1)
    return image.flip(-1), torch.stack((width - x2, y1, width - x1, y2), dim=1)


def clip_boxes(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Clip boxes to an image of ``size`` (height, width), and drop those that become degenerate, with their labels."""
    boxes = clip(boxes, size)
    keep = larger_than(boxes, 1e-3)
    return boxes[keep], labels[keep]
