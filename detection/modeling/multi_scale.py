"""Regions pooled from maps of the image at two adjacent scales (ResNet paper, appendix B; SPP-net and its "Networks on
conv feature maps", which the paper cites for it)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from detection.modeling.roi_head import RoIHead
from detection.modeling.structures import Maps

Merge = Literal["features", "pooled", "conv5"]
MERGES = get_args(Merge)
_SIDE = 224.0  # pixels: of the images that trunks are trained on
_OUTSIDE = -1e6  # pixels: beyond every map


@dataclass(frozen=True)
class Scale:
    """The maps of a batch at one scale.

    Attributes:
        maps: of the trunk.
        ratios: [N, 2], width and height of each image there over those at the base scale.
    """

    maps: Maps
    ratios: Tensor


def adjacent_scales(boxes: Tensor, ratios: Tensor) -> Tensor:
    """Return for each box the first of the two adjacent scales between which it would be 224 pixels large.

    Args:
        boxes: [R, 4] at the base scale.
        ratios: [S, R, 2] of each scale, the smallest first, for the image of each box.

    Returns:
        int64 [R], i for the scales i and i + 1 with f(i) <= 224 < f(i + 1), f the square root of the box's area at a scale;
        the outermost pair beyond them.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]) * ratios
    small = sides.clamp(min=0).prod(dim=2).sqrt() <= _SIDE  # [S, R]
    return (small.sum(dim=0) - 1).clamp(0, max(len(ratios) - 2, 0))


def multi_scale_features(head: RoIHead, scales: Sequence[Scale], regions: Tensor, merge: Merge, padded: bool) -> Tensor:
    """Return the features [R, F] of regions, the larger of those at two adjacent scales.

    Args:
        head: pools and describes them.
        scales: the smallest first; with a single one, that one's features.
        regions: [R, 5], image index and a box in pixels of the base scale.
        merge: what the maximum is taken of, which the paper leaves open: features (after conv5_x and its mean), conv5 (its
            maps), or pooled (before it).
        padded: without a host-device synchronisation: every region is pooled from each scale, others from outside its maps.
    """
    image = regions[:, 0].long()
    ratios = torch.stack([scale.ratios[image] for scale in scales])
    first = adjacent_scales(regions[:, 1:], ratios)
    pool = _pool_padded if padded else _pool_by_scale
    pooled = [
        pool(head, scales, regions, ratios, level) for level in ((first, first + 1) if len(scales) > 1 else (first,))
    ]
    if merge == "pooled":
        return head.describe(_maximum(pooled))
    if merge == "conv5":
        return head.average(_maximum([head.head(part) for part in pooled]))
    return _maximum([head.describe(part) for part in pooled])


def _maximum(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.maximum(parts[0], parts[1])


def _pool_by_scale(head: RoIHead, scales: Sequence[Scale], regions: Tensor, ratios: Tensor, level: Tensor) -> Tensor:
    if len(scales) == 1:
        return head.pooler(scales[0].maps, _scaled(regions, ratios[0]), False)
    pooled: Tensor | None = None
    for i, scale in enumerate(scales):
        index = (level == i).nonzero()[:, 0]
        if not len(index) and (pooled is not None or i + 1 < len(scales)):
            continue  # maps of a scale that no region is pooled from
        part = head.pooler(scale.maps, _scaled(regions[index], ratios[i][index]), False)
        if pooled is None:
            pooled = part.new_zeros(len(regions), *part.shape[1:])
        pooled = pooled.index_put((index,), part)
    assert pooled is not None
    return pooled


def _pool_padded(head: RoIHead, scales: Sequence[Scale], regions: Tensor, ratios: Tensor, level: Tensor) -> Tensor:
    pooled: Tensor | None = None
    for i, scale in enumerate(scales):
        scaled = _scaled(regions, ratios[i])
        boxes = torch.where((level == i)[:, None], scaled[:, 1:], _OUTSIDE)
        part = head.pooler(scale.maps, torch.cat((scaled[:, :1], boxes), dim=1), True)
        pooled = part if pooled is None else pooled + part
    assert pooled is not None
    return pooled


def _scaled(regions: Tensor, ratios: Tensor) -> Tensor:
    """Return regions [R, 5] with their boxes in the pixels of a scale of ratios [R, 2]."""
    return torch.cat((regions[:, :1], regions[:, 1:] * ratios.repeat(1, 2).to(regions.dtype)), dim=1)
