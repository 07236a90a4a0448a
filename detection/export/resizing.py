"""Resizing inside the graph: bilinear with antialiasing as Pillow's, as two matrix products, which every runtime has.

A row of the result is a weighted sum of the image's rows about its centre, with weights that fall off linearly (a triangle
filter) over as many rows as the image is larger. Bytes are rounded after the columns and after the rows, as Pillow does.
"""

import torch
from torch import Tensor, nn

from detection.export.graph import DetectorGraph, clip_to

_BYTE = 255.0


class ResizingGraph(nn.Module):
    """A graph that takes the original image [1, 3, H, W] and gives boxes in its pixels.

    Args:
        graph: takes images and sizes.
        short_side, max_side: that images are resized to (:func:`detection.data.transforms.output_size`).
        canvas: (height, width) of what the network sees, which the resized image fits into.
    """

    def __init__(self, graph: DetectorGraph, short_side: int, max_side: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.detector, self.canvas = graph, canvas
        self.short_side, self.max_side = float(short_side), float(max_side)

    @property
    def top(self) -> int:
        """Detections in the output."""
        return self.detector.top

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, labels, scores and count, as :class:`DetectorGraph`."""
        pixels, size, resized = self.resize(images)
        boxes, labels, scores, count = self.detector(pixels, resized[None].long())
        limits = size.flip(0).repeat(2)
        return clip_to(boxes * (limits / resized.flip(0).repeat(2)), limits), labels, scores, count

    def resize(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the canvas with the resized image in 0..1 [1, 3, h, w], and the (height, width) before and after."""
        size = torch.stack([torch.ones(side).sum() for side in images.shape[-2:]])
        resized = self.resized(size)
        x = images.float() if images.dtype == torch.uint8 else images * _BYTE
        rows = _weights(images.shape[-2], size[0], resized[0], self.canvas[0])
        columns = _weights(images.shape[-1], size[1], resized[1], self.canvas[1])
        x = (x @ columns.t()).round()
        x = (rows @ x).round()
        return x / _BYTE, size, resized

    def resized(self, size: Tensor) -> Tensor:
        """Return the (height, width) that an image of a size is resized to, float32 [2]."""
        sides = size * (self.short_side / size.min())
        sides = sides * (self.max_side / sides.max()).clamp(max=1.0)
        sides = (sides + 0.5).floor().clamp(min=1.0)
        canvas = torch.tensor(self.canvas, dtype=torch.float32)
        smaller = (canvas / sides).min()
        fitted = torch.minimum((sides * smaller + 0.5).floor().clamp(min=1.0), canvas)
        return torch.where(smaller < 1, fitted, sides)


def _weights(length: int, size: Tensor, resized: Tensor, canvas: int) -> Tensor:
    """Return the weights [canvas, length] of an axis' cells in each resized cell; 0 beyond the resized length."""
    ratio = size / resized
    cell = torch.arange(length, dtype=torch.float32)[None] + 0.5
    index = torch.arange(canvas, dtype=torch.float32)[:, None]
    weight = (1 - ((index + 0.5) * ratio - cell).abs() / ratio.clamp(min=1.0)).clamp(min=0)
    return weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-6) * (index < resized)
