"""Anchors: boxes of several sizes and shapes at every position of a map (Faster R-CNN, section 3.1.1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], rounded: bool = False) -> Float[Tensor, "a 4"]:
    """Return the anchors of one position, centred at 0: sizes outermost, then aspect ratios.

    An anchor of size s and ratio r (height / width) has area s² and sides s/√r by s·√r, not rounded.

    Args:
        sizes, aspect_ratios: as of :class:`AnchorGenerator`.
        rounded: the corners to whole pixels.
    """
    size = torch.tensor(sizes, dtype=torch.float64)[:, None]
    ratio = torch.tensor(aspect_ratios, dtype=torch.float64)[None, :]
    width = (size * size / ratio).sqrt().flatten()
    height = width * ratio.expand(len(sizes), -1).flatten()
    corners = (torch.stack((-width, -height, width, height), dim=1) / 2).float()
    return corners.round() if rounded else corners


class AnchorGenerator(nn.Module):
    """The anchors of a map.

    Args:
        sizes: square roots of the anchors' areas, in pixels.
        aspect_ratios: height / width.
        stride: pixels between two positions of the map.
        offset: position of the first centre in strides; 0 as in detectron2 and torchvision.
        rounded: as torchvision's: corners on whole pixels, and positions as far apart as the image's side over the map's,
            rounded down (61 px for 13 rows of 800 px, the coarsest level of a pyramid).
    """

    cell: Tensor

    def __init__(
        self,
        sizes: Sequence[float],
        aspect_ratios: Sequence[float],
        stride: int,
        offset: float = 0.0,
        rounded: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.offset, self.rounded = stride, offset, rounded
        self.register_buffer("cell", cell_anchors(sizes, aspect_ratios, rounded), persistent=False)

    @property
    def per_position(self) -> int:
        """Anchors at one position (9 in the paper, 15 with the five sizes of detectron2)."""
        return len(self.cell)

    def forward(self, height: int, width: int, image: tuple[int, int] | None = None) -> Float[Tensor, "n 4"]:
        """Return all anchors of a map of height x width positions, row by row, a position's anchors innermost.

        Args:
            height, width: of the map.
            image: (height, width) of the padded batch, which ``rounded`` anchors follow; None takes the stride.
        """
        device = self.cell.device
        step_y = step_x = self.stride
        if self.rounded and image is not None:
            step_y, step_x = image[0] // height, image[1] // width
        y = (torch.arange(height, device=device, dtype=torch.float32) + self.offset) * step_y
        x = (torch.arange(width, device=device, dtype=torch.float32) + self.offset) * step_x
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1).reshape(-1, 1, 4)  # [H·W, 1, 4]
        return (shifts + self.cell).reshape(-1, 4)  # [H·W, k, 4] -> [H·W·k, 4]


def make_anchors(
    strides: Sequence[int],
    *,
    sizes: Sequence[float] = (32, 64, 128, 256, 512),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    offset: float = 0.0,
    rounded: bool = False,
) -> list[AnchorGenerator]:
    """Return a generator for each map: all sizes on a single map, one size on each level of a pyramid.

    Args:
        strides: of the maps, finest first.
        sizes, aspect_ratios, offset, rounded: as of :class:`AnchorGenerator`.

    Raises:
        ValueError: the number of sizes is not that of a pyramid's levels.
    """
    per_map = [tuple(sizes)] if len(strides) == 1 else [(size,) for size in sizes]
    if len(per_map) != len(strides):
        raise ValueError(
            f"model.anchors.sizes must name one size for each of the pyramid's {len(strides)} levels, got {tuple(sizes)}"
        )
    return [
        AnchorGenerator(map_sizes, aspect_ratios, stride, offset, rounded)
        for map_sizes, stride in zip(per_map, strides, strict=True)
    ]
