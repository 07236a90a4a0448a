"""Mosaic and mixup of images with boxes.

Mosaic (Bochkovskiy et al., YOLOv4, 2020; the canvas and the window as YOLOX and mmdetection): four images around a random
centre of a canvas of twice the side, each resized to fit the side's square, its inner corner at the centre; then a window of
side / s for a random scale s, moved by a random tenth, is cut out.

    +-------+---------------+      canvas 2S x 2S, centre (x, y) from 0.5 S to 1.5 S
    |    A  |  B            |      A ends at the centre, B begins there, and so on; what an
    +-------+---------------+      image does not fill is grey, what leaves the canvas is cut
    |    C  |  D            |
    |       |               |
    +-------+---------------+

Mixup (Zhang et al., Bag of Freebies, 2019; as YOLOX): the mean of an image and of a second one, which is resized to fit it
and by a random scale, flipped at random, and cut or padded to its size; the boxes of both.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detection.data.augmentation.jitter import cut, left_of, resize_to
from detection.data.transforms import flip
from detection.ops.boxes import clip

PAD_VALUE = 114  # YOLOX's grey
CENTRE, SCALE, SHIFT = (
    (0.5, 1.5),
    (0.5, 1.5),
    0.1,
)  # of a mosaic's side; scale: mmdetection's is from 0.1, Ultralytics' this
MIXUP_SCALE = (0.5, 1.5)
ImageBoxes = tuple[Tensor, Tensor, Tensor]  # uint8 [C, H, W], float32 [n, 4], int64 [n]


def mosaic(images: Sequence[ImageBoxes], side: int, rng: np.random.Generator) -> ImageBoxes:
    """Return a mosaic of four images: about ``side`` / 1.5 to ``side`` / 0.5 pixels square, with the remaining boxes.

    Args:
        images: four, with their boxes and labels.
        side: S, that each of them is resized to fit.
        rng: draws the centre and the window.
    """
    if len(images) != 4:
        raise ValueError(f"a mosaic is of 4 images, got {len(images)}")
    x, y = (int(v) for v in rng.uniform(*CENTRE, 2) * side)
    canvas = torch.full((images[0][0].shape[0], 2 * side, 2 * side), PAD_VALUE, dtype=torch.uint8)
    parts = []
    for k, (image, boxes, labels) in enumerate(images):
        image, boxes = _fit(image, boxes, (side, side))
        height, width = image.shape[-2:]
        left, top = x - width * (k % 2 == 0), y - height * (k < 2)
        _paste(canvas, image, left, top)
        parts.append((boxes + boxes.new_tensor([left, top] * 2), labels))
    window = max(round(side / rng.uniform(*SCALE)), 1)
    # centred on the canvas, and moved
    left, top = (round(side - window / 2 + v * side) for v in rng.uniform(-SHIFT, SHIFT, 2))
    view = torch.full((canvas.shape[0], window, window), PAD_VALUE, dtype=torch.uint8)
    _paste(view, canvas, -left, -top)
    boxes, labels = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    on_canvas = clip(boxes, (2 * side, 2 * side))
    clipped = clip(on_canvas - boxes.new_tensor([left, top] * 2), (window, window))
    kept = left_of(boxes, clipped)  # of the whole box: what both edges leave
    return view, clipped[kept], labels[kept]


def mixup(first: ImageBoxes, second: ImageBoxes, rng: np.random.Generator) -> ImageBoxes:
    """Return the mean of two images at the first one's size, with the boxes of both.

    Args:
        first: with its boxes and labels; its boxes stay.
        second: likewise.
        rng: draws the second one's scale, flip and window.
    """
    image, boxes, labels = first
    height, width = image.shape[-2:]
    other, other_boxes = _fit(second[0], second[1], (height, width), rng.uniform(*MIXUP_SCALE))
    if rng.random() < 0.5:
        other, other_boxes = flip(other, other_boxes)
    slack = np.array(other.shape[-2:]) - (height, width)
    top, left = (int(rng.integers(0, room + 1)) if room > 0 else 0 for room in slack.tolist())
    canvas = torch.full_like(image, PAD_VALUE)
    _paste(canvas, other, -left, -top)
    other_boxes, kept = cut(other_boxes - other_boxes.new_tensor([left, top] * 2), (height, width))
    mixed = ((image.int() + canvas.int()) // 2).to(torch.uint8)
    return mixed, torch.cat((boxes, other_boxes[kept])), torch.cat((labels, second[2][kept]))


def _fit(image: Tensor, boxes: Tensor, size: tuple[int, int], scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Resize an image and its boxes to fit ``size`` (height, width), times ``scale``, its aspect ratio kept."""
    height, width = image.shape[-2:]
    scale *= min(size[0] / height, size[1] / width)
    return resize_to(image, boxes, (max(round(height * scale), 1), max(round(width * scale), 1)))


def _paste(canvas: Tensor, image: Tensor, left: int, top: int) -> None:
    """Copy onto the canvas what of an image lies within, its upper left corner at (left, top)."""
    height, width = canvas.shape[-2:]
    y1, x1 = max(top, 0), max(left, 0)
    y2, x2 = min(top + image.shape[-2], height), min(left + image.shape[-1], width)
    if y2 > y1 and x2 > x1:
        canvas[:, y1:y2, x1:x2] = image[:, y1 - top : y2 - top, x1 - left : x2 - left]
