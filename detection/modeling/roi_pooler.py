"""RoI pooling: regions of a map, or of a pyramid's levels, to fixed size (Fast R-CNN, section 2.1; Mask R-CNN)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_pool

from detection.modeling.structures import Maps, as_maps
from detection.ops.boxes import area, at_least_float32
from detection.ops.device import use_padding
from detection.ops.roi_align import roi_align

_OUTSIDE = -1e6  # pixels: beyond every map


class RoIPooler(nn.Module):
    """Regions of a map, or of the levels of a pyramid, to fixed size.

    Args:
        strides: of the maps, finest first; further maps are not pooled from.
        pool: "max" (Fast R-CNN's RoI max pooling) or "align" (Mask R-CNN's bilinear RoIAlign).
        resolution: rows and columns of the result (14, halved by conv5_x; 7 where two layers follow).
        sampling_ratio: points per bin side for "align"; 0 takes as many as the region has map cells (detectron2).
        aligned: shift by half a pixel (detectron2's ROIAlignV2; torchvision's detectors do not).
        bin_stride: only every ``bin_stride``-th row and column is computed, for a head that strides in its first 1x1
            convolution and would discard the others.
    """

    def __init__(
        self,
        strides: Sequence[int],
        *,
        pool: Literal["align", "max"] = "align",
        resolution: int = 14,
        sampling_ratio: int = 0,
        aligned: bool = True,
        bin_stride: int = 1,
    ) -> None:
        super().__init__()
        self.pool, self.resolution, self.strides = pool, resolution, tuple(strides)
        self.sampling_ratio, self.aligned, self.bin_stride = sampling_ratio, aligned, bin_stride

    def forward(self, features: Maps, regions: Tensor, padded: bool | None = None) -> Tensor:
        """Pool regions [R, 5] (image index, then a box in pixels) from a map [N, C, H, W], or several.

        Returns:
            [R, C, S, S], S = resolution / bin_stride.
        """
        maps = as_maps(features)
        if len(self.strides) == 1:
            return self._pool(maps[0], regions, self.strides[0])
        level = self.levels(regions[:, 1:])
        if use_padding(padded, regions.device):
            return self._pool_padded(maps, regions, level)
        return self._pool_per_level(maps, regions, level)

    def _pool_per_level(self, maps: Sequence[Tensor], regions: Tensor, level: Tensor) -> Tensor:
        """Pool each level's regions from it."""
        pooled: Tensor | None = None
        for i, stride in enumerate(self.strides):
            index = (level == i).nonzero()[:, 0]
            part = self._pool(maps[i], regions[index], stride)
            if pooled is None:
                pooled = part.new_zeros(len(regions), *part.shape[1:])
            pooled = pooled.index_put((index,), part)
        assert pooled is not None
        return pooled

    def _pool_padded(self, maps: Sequence[Tensor], regions: Tensor, level: Tensor) -> Tensor:
        """Pool all regions from every level, other levels' from outside the map, where everything is 0: how many regions
        a level has would need a sync."""
        image, boxes = regions[:, :1], regions[:, 1:]
        pooled: Tensor | None = None
        for i, stride in enumerate(self.strides):
            level_boxes = torch.where((level == i)[:, None], boxes, _OUTSIDE)
            part = self._pool(maps[i], torch.cat((image, level_boxes), dim=1), stride)
            pooled = part if pooled is None else pooled + part
        assert pooled is not None
        return pooled

    def levels(self, boxes: Tensor) -> Tensor:
        """Return the map that each box [R, 4] is pooled from, int64 [R]: one of 224 px from the map of stride 16, one of
        half that from the next finer (Lin et al., 2017, equation 1)."""
        wanted = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224 + 1e-8))
        first = math.log2(self.strides[0])
        return (wanted - first).clamp(0, len(self.strides) - 1).long()

    def _pool(self, x: Tensor, regions: Tensor, stride: int) -> Tensor:
        scale = 1.0 / stride
        if self.pool == "max":
            exact = at_least_float32(x)
            pooled = roi_pool(exact, regions.to(exact.dtype), self.resolution, scale).to(x.dtype)
            return pooled[:, :, :: self.bin_stride, :: self.bin_stride]
        return roi_align(x, regions, self.resolution, scale, self.sampling_ratio, self.aligned, self.bin_stride)


def as_regions(boxes: Sequence[Tensor]) -> Tensor:
    """Concatenate the boxes [r_i, 4] of each image, with the image's index in front: [R, 5]."""
    return torch.cat([F.pad(image_boxes, (1, 0), value=float(i)) for i, image_boxes in enumerate(boxes)])
