"""RoIAlign (Mask R-CNN, section 3) as weighted sums of map cells: torchvision's result to rounding, faster on CPUs.

A bin of RoIAlign averages bilinear samples, so it is a weighted sum of the cells about them, and the weights are products of
one for the row and one for the column. ``embedding_bag`` computes such sums, and their gradient, several times faster than
``torchvision.ops.roi_align`` does on a CPU, and only those bins that are wanted.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from detection.ops.boxes import at_least_float32


def roi_align(
    features: Tensor,
    regions: Tensor,
    resolution: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
    bin_stride: int = 1,
) -> Tensor:
    """Pool regions of a map to fixed size.

    Args:
        features: [N, C, H, W].
        regions: [R, 5]: the image, then xyxy in pixels.
        resolution: bins per side.
        scale: map cells per pixel.
        sampling_ratio: points per bin side; 0 takes as many as a bin has cells, rounded up.
        aligned: shift by half a cell.
        bin_stride: bins 0, bin_stride, 2·bin_stride, … of each side are computed.

    Returns:
        [R, C, S, S] with S = ceil(resolution / bin_stride), in the map's dtype.
    """
    channels, height, width = features.shape[1:]
    side = -(-resolution // bin_stride)
    if not len(regions):
        return features.new_zeros(0, channels, side, side)
    # half precision is too coarse for boxes and sums of weights, and the map is small beside what is pooled from it
    exact = at_least_float32(features)
    if features.device.type != "cpu":  # elsewhere torchvision's kernel is the fast one
        pooled = torchvision_roi_align(exact, regions.to(exact.dtype), resolution, scale, sampling_ratio, aligned)
        return pooled[:, :, ::bin_stride, ::bin_stride].to(features.dtype)
    cells = exact.permute(0, 2, 3, 1).reshape(-1, channels)
    boxes = regions[:, 1:].to(cells.dtype) * scale - (0.5 if aligned else 0.0)
    first = regions[:, 0].long() * (height * width)
    size = boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        size = size.clamp(min=1.0)
    points = torch.full_like(size, sampling_ratio) if sampling_ratio else torch.ceil(size / resolution).clamp(min=0)
    parts, order = [], []
    # together those with as many points, so that small regions do not carry the zeros of large ones
    most = points.amax(dim=1)
    for count in most.unique().tolist():
        chosen = (most == count).nonzero()[:, 0]
        x, y = (
            _axis(boxes[chosen, i], size[chosen, i], points[chosen, i], resolution, bin_stride, length, int(count))
            for i, length in ((0, width), (1, height))
        )
        index = first[chosen, None, None, None, None] + y[0][:, :, None, :, None] * width + x[0][:, None, :, None, :]
        weight = y[1][:, :, None, :, None] * x[1][:, None, :, None, :]
        bags = len(chosen) * side * side
        sums = F.embedding_bag(
            index.reshape(bags, -1), cells, per_sample_weights=weight.reshape(bags, -1).contiguous(), mode="sum"
        )
        parts.append(sums.view(len(chosen), side * side, channels))
        order.append(chosen)
    pooled = parts[0] if len(parts) == 1 else torch.cat(parts)[torch.cat(order).argsort()]
    # channels_last: what convolutions take fastest
    return pooled.view(len(regions), side, side, channels).permute(0, 3, 1, 2).to(features.dtype)


def _axis(
    start: Tensor, size: Tensor, points: Tensor, resolution: int, bin_stride: int, length: int, most: int
) -> tuple[Tensor, Tensor]:
    """Return the cells that each bin reaches along one axis and their weights, [R, S, 2 * most] each.

    Args:
        start, size: of the regions in cells, [R].
        points: samples per bin, [R].
        length: of the axis in cells.
        most: the largest number of samples.
    """
    bins = torch.arange(0, resolution, bin_stride, dtype=start.dtype)
    point = torch.arange(max(most, 1), dtype=start.dtype)
    per_bin = (size / resolution)[:, None, None]
    count = points.clamp(min=1)[:, None, None]
    at = start[:, None, None] + bins[:, None] * per_bin + (point + 0.5) * per_bin / count
    counted = (at >= -1) & (at <= length) & (point < points[:, None, None])
    at = at.clamp(min=0)
    low = at.floor().clamp(max=length - 1)
    share = (at - low).clamp(max=1.0) * (low < length - 1)  # of the cell above; the last one has none
    weight = torch.cat((1 - share, share), dim=2) * (counted / count).repeat(1, 1, 2)
    cell = torch.cat((low, (low + 1).clamp(max=length - 1)), dim=2)
    return cell.long(), weight
