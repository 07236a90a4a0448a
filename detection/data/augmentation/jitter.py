"""Large-scale jitter (Ghiasi et al., Simple Copy-Paste, 2021, section 3), as detectron2's ResizeScale and FixedSizeCrop.

An image is resized to fit a square of a random multiple of the side, and a random window of the side's square is cut out of
what is larger; what is smaller is padded at the right and the bottom, so that all images of a batch have one size.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detection.ops.boxes import area, clip

PAD_VALUE = 128  # detectron2's
# of what cutting leaves of a box: a smaller fraction of its area, or a shorter side in pixels, is no object to learn from
MIN_VISIBLE, MIN_SIDE = 0.1, 1.0


def large_scale_jitter(
    image: Tensor, boxes: Tensor, labels: Tensor, scales: tuple[float, float], side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image uint8 [C, side, side] with its remaining boxes and labels.

    Args:
        image: uint8 [C, H, W].
        boxes: float32 [n, 4] xyxy in pixels.
        labels: int64 [n].
        scales: the smallest and the largest multiple of ``side`` that the image is resized to fit.
        side: of the result, in pixels.
        rng: draws the scale and the window.
    """
    height, width = image.shape[-2:]
    scale = side * rng.uniform(*scales) / max(height, width)
    image, boxes = resize_to(image, boxes, (max(round(height * scale), 1), max(round(width * scale), 1)))
    slack = np.maximum(np.array(image.shape[-2:]) - side, 0)
    y, x = np.rint(slack * rng.random()).astype(int).tolist()  # one number for both, as detectron2
    window = image[:, y : y + side, x : x + side]
    canvas = torch.full((image.shape[0], side, side), PAD_VALUE, dtype=torch.uint8)
    canvas[:, : window.shape[-2], : window.shape[-1]] = window
    boxes, kept = cut(boxes - boxes.new_tensor([x, y] * 2), (window.shape[-2], window.shape[-1]))
    return canvas, boxes[kept], labels[kept]


def resize_to(image: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize an image and its boxes to ``size`` (height, width), bilinear with antialiasing."""
    height, width = image.shape[-2:]
    if size == (height, width):
        return image, boxes
    return F.resize(image, list(size), antialias=True), boxes * boxes.new_tensor(
        [size[1] / width, size[0] / height] * 2
    )


def cut(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Clip boxes to an image of ``size`` (height, width); also return which of them are left (:func:`left_of`), bool [n]."""
    clipped = clip(boxes, size)
    return clipped, left_of(boxes, clipped)


def left_of(boxes: Tensor, clipped: Tensor) -> Tensor:
    """Return bool [n], which boxes [n, 4] keep ``MIN_VISIBLE`` of their area and ``MIN_SIDE`` pixels a side when clipped."""
    sides = clipped[:, 2:] - clipped[:, :2]
    return (sides >= MIN_SIDE).all(dim=1) & (area(clipped) >= MIN_VISIBLE * area(boxes))
