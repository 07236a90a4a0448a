"""RoI pooling: regions of a map, or of a pyramid's levels, to fixed size (Fast R-CNN, section 2.1; Mask R-CNN)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_pool

from detection.modeling.structures import Maps, as_maps
from detection.ops.boxes import area
from detection.ops.roi_align import roi_align

_OUTSIDE = -1e6  # pixels: beyond every map


class RoIPooler(nn.Module):
    """Regions of a map, or of the levels of a pyramid, to fixed size.

    Args:
        kind: "max" (Fast R-CNN's RoI max pooling) or "align" (Mask R-CNN's bilinear RoIAlign).
        resolution: rows and columns of the result (14, halved by conv5_x; 7 where two layers follow).
        strides: of the maps, finest first; further maps are not looked at.
        sampling_ratio: points a bin side for "align"; 0 takes as many as the region has map cells (detectron2).
        aligned: shift by half a pixel (detectron2's ROIAlignV2; torchvision's detectors do not).
        every: only each ``every``-th of the rows and columns comes out: where a head strides in its first 1x1
            convolution, the others would be thrown away.
    """

    def __init__(
        self,
        kind: Literal["align", "max"],
        resolution: int,
        strides: Sequence[int],
        sampling_ratio: int,
        aligned: bool,
        every: int = 1,
    ) -> None:
        super().__init__()
        self.kind, self.resolution, self.strides = kind, resolution, tuple(strides)
        self.sampling_ratio, self.aligned, self.every = sampling_ratio, aligned, every

    def forward(self, features: Maps, regions: Tensor) -> Tensor:
        """Map [N, C, H, W], or several, and regions [R, 5] (the image, then a box in pixels) -> [R, C, S, S], S =
        resolution / every."""
        maps = as_maps(features)
        if len(self.strides) == 1:
            return self._pool(maps[0], regions, self.strides[0])
        level = self.levels(regions[:, 1:])
        return self._chosen(maps, regions, level) if regions.device.type == "cpu" else self._all(maps, regions, level)

    def _chosen(self, maps: Sequence[Tensor], regions: Tensor, level: Tensor) -> Tensor:
        """Each level's regions pooled from it."""
        pooled: Tensor | None = None
        for i, stride in enumerate(self.strides):
            chosen = (level == i).nonzero()[:, 0]
            part = self._pool(maps[i], regions[chosen], stride)
            if pooled is None:
                pooled = part.new_zeros(len(regions), *part.shape[1:])
            pooled = pooled.index_put((chosen,), part)
        assert pooled is not None
        return pooled

    def _all(self, maps: Sequence[Tensor], regions: Tensor, level: Tensor) -> Tensor:
        """The same without waiting for the device to say which regions a level has: all are pooled from every level, the
        others' from outside the map, where everything is 0."""
        image, boxes = regions[:, :1], regions[:, 1:]
        pooled: Tensor | None = None
        for i, stride in enumerate(self.strides):
            own = torch.where((level == i)[:, None], boxes, _OUTSIDE)
            part = self._pool(maps[i], torch.cat((image, own), dim=1), stride)
            pooled = part if pooled is None else pooled + part
        assert pooled is not None
        return pooled

    def levels(self, boxes: Tensor) -> Tensor:
        """Which map each box [R, 4] is pooled from, int64 [R]: one of 224 px from the map of stride 16, one of half that
        from the next finer (Lin et al., 2017, equation 1)."""
        wanted = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224 + 1e-8))
        first = math.log2(self.strides[0])
        return (wanted - first).clamp(0, len(self.strides) - 1).long()

    def _pool(self, x: Tensor, regions: Tensor, stride: int) -> Tensor:
        scale = 1.0 / stride
        if self.kind == "max":
            pooled = roi_pool(x.float(), regions.float(), self.resolution, scale).to(x.dtype)
            return pooled[:, :, :: self.every, :: self.every]
        return roi_align(x, regions, self.resolution, scale, self.sampling_ratio, self.aligned, self.every)


def as_regions(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes [r_i, 4] of each image, one below the other, with the image's number in front: [R, 5]."""
    return torch.cat([F.pad(own, (1, 0), value=float(i)) for i, own in enumerate(boxes)])
