"""The detector as one graph of tensors, from an image's pixels to a fixed number of detections, for exporters.

The modules are the detector's own. What is between them is written again without data-dependent shapes: the best anchors of
a map, the sets of NMS and the detections have a fixed number of slots, whatever the image's size; padded slots have a score
of -inf, an empty box, or a score of 0. So batch, height and width alone are free.

Shapes: N images, A anchors of a map, P proposals, K classes, D detections.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.roi_pooler import RoIPooler
from detection.modeling.rpn import RPN
from detection.modeling.structures import as_maps
from detection.ops.boxes import larger_than
from detection.ops.nms import batched_nms_mask

_OUTSIDE = -1e6  # pixels: beyond every map
_LOWEST = -1e30  # any logit is larger, and -inf is not


OUTPUTS = ("boxes", "labels", "scores", "count")


class DetectorGraph(nn.Module):
    """A detector for exporters: ``graph(images)``, or ``graph(images, sizes)``, returns boxes [N, D, 4] float32, labels
    [N, D] int64 and scores [N, D] float32 by decreasing score, and count [N] int64: how many of the D are detections.

    Args:
        model: the detector; its parameters are shared.
        top: D, detections of an image at most; None takes the detector's ``max_detections``.

    ``images`` are RGB [N, 3, H, W], uint8 or float 0..1, at the size that the network takes; ``sizes`` int64 [N, 2] are the
    heights and widths of the images that the batch was padded from at the right and the bottom.
    """

    def __init__(self, model: FasterRCNN, top: int | None = None) -> None:
        super().__init__()
        _check(model)
        self.model = model
        self.top = min(top or model.roi_head.max_detections, model.roi_head.max_detections)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, labels, scores and count."""
        height, width = images.shape[-2], images.shape[-1]
        x = self._normalise(images, sizes)
        limits = _limits(images) if sizes is None else sizes.flip(1).to(torch.float32).repeat(1, 2)[:, None]
        divisor = self.model.divisor
        if divisor > 1:
            x = F.pad(x, (0, -width % divisor, 0, -height % divisor))
        features = as_maps(self.model.trunk(x))
        proposals = rpn_proposals(self.model.rpn, features, limits)
        logits, deltas = self._regions(features, proposals)
        return self._detections(proposals, logits, deltas, limits)

    def _normalise(self, images: Tensor, sizes: Tensor | None) -> Tensor:
        model = self.model
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        x = model.recipe.normalise(x, (model.pixel_scale, model.pixel_shift))
        if sizes is None:
            return x
        y_inside = torch.arange(images.shape[-2])[None, :] < sizes[:, :1]
        x_inside = torch.arange(images.shape[-1])[None, :] < sizes[:, 1:]
        return x * (y_inside[:, None, :, None] & x_inside[:, None, None, :])

    def _regions(self, features: Sequence[Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, P, K + 1] and offsets [N, P, K, 4] of proposals [N, P, 4]."""
        head, count = self.model.roi_head, proposals.shape[1]
        image = torch.arange(proposals.shape[0], dtype=proposals.dtype)[:, None, None].expand(-1, count, 1)
        # a padded slot has no size, whose adaptive sampling some runtimes divide by
        sized = torch.where(larger_than(proposals, 0.0)[..., None], proposals, proposals.new_tensor([0.0, 0, 16, 16]))
        regions = torch.cat((image, sized), dim=2).flatten(0, 1)
        pooled = pool(head.pooler, features, regions)  # type: ignore[arg-type]  # nn.Module's attributes
        logits, deltas = head.classify(head.describe(pooled), regions)
        return logits.unflatten(0, (-1, count)), deltas.view(-1, count, head.num_classes, 4)

    def _detections(
        self, proposals: Tensor, logits: Tensor, deltas: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head = self.model.roi_head
        scores = logits.softmax(dim=2)[..., 1:] * larger_than(proposals, 0.0)[..., None]  # [N, P, K]
        # [N, K, P]: every class is a set; stable, as the detector's own order of equal scores
        score, region = scores.transpose(1, 2).sort(dim=2, descending=True, stable=True)
        index = region[..., None].expand(-1, -1, -1, 4)
        offsets = deltas.transpose(1, 2).gather(2, index)
        reference = proposals[:, None].expand(-1, head.num_classes, -1, -1).gather(2, index)
        boxes = clip_to(head.coder.decode(offsets, reference), limits[:, None])
        side = boxes[..., 2:] - boxes[..., :2]
        valid = (score > head.score_threshold) & (side >= head.min_size).all(dim=-1)  # NaN is not
        kept = batched_nms_mask(boxes.flatten(0, 1), valid.flatten(0, 1), head.nms_iou, head.max_detections)
        kept = kept.unflatten(0, (-1, head.num_classes))
        flat = _fill(torch.where(kept, score, 0.0).flatten(1), self.top)
        best, index = flat.topk(self.top, dim=1)
        slots = head.num_classes * proposals.shape[1]
        index = index.clamp(max=slots - 1)
        label = torch.arange(1, head.num_classes + 1)[None, :, None].expand_as(region).flatten(1).gather(1, index)
        box = boxes.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
        found = best > 0
        return torch.where(found[..., None], box, 0.0), label * found, best, found.sum(dim=1)


def _check(model: FasterRCNN) -> None:
    """Raise ValueError, by name, for what the graph does not have."""
    head = model.roi_head
    lacking = {
        "global context (model.roi.context=true)": head.context,
        f"model.roi.nms={head.nms}": head.nms != "hard",
        "model.roi.class_agnostic_nms=true": head.class_agnostic_nms,
        f"model.in_channels={model.in_channels}": model.in_channels != 3,
    }
    for what, there in lacking.items():
        if there:
            raise ValueError(f"exported files cannot hold {what}: best.pth runs it")


def rpn_proposals(rpn: RPN, features: Sequence[Tensor], limits: Tensor) -> Tensor:
    """Return proposals [N, P, 4], best first, P the RPN's ``after_nms``; padded slots are empty boxes.

    Args:
        rpn: the RPN.
        features: its maps.
        limits: [N, 1, 4]: width, height, width, height of the images.
    """
    before, after = rpn.test_limits.before_nms, rpn.test_limits.after_nms
    finest: Any = rpn.anchors[0]
    image = (features[0].shape[-2] * finest.stride, features[0].shape[-1] * finest.stride)
    all_scores, all_boxes = [], []
    for x, generator in zip(features, rpn.anchors, strict=True):
        hidden = rpn.conv(x).relu()
        logits = rpn.objectness(hidden).permute(0, 2, 3, 1).flatten(1)  # [N, k, H, W] -> [N, A]
        offsets = rpn.deltas(hidden).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)
        anchors = generator(x.shape[-2], x.shape[-1], image)
        score, top = F.pad(logits.float(), (0, before), value=-torch.inf).topk(before, dim=1)
        index = top.clamp(max=anchors.shape[0] - 1)
        deltas = offsets.gather(1, index[..., None].expand(-1, -1, 4))
        all_scores.append(score)
        all_boxes.append(clip_to(rpn.coder.decode(deltas, anchors[index]), limits))
    scores, boxes = torch.stack(all_scores, dim=1), torch.stack(all_boxes, dim=1)  # [N, maps, before]
    valid = larger_than(boxes, rpn.min_size) & (scores > _LOWEST)
    kept = batched_nms_mask(boxes.flatten(0, 1), valid.flatten(0, 1), rpn.nms_iou, after)
    scores = scores.masked_fill(~kept.unflatten(0, (-1, len(features))), -torch.inf).flatten(1)
    score, order = _fill(scores, after, -torch.inf).topk(after, dim=1)
    order = order.clamp(max=len(features) * before - 1)
    best = boxes.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, 4))
    return torch.where((score > _LOWEST)[..., None], best, 0.0)


def pool(pooler: RoIPooler, features: Sequence[Tensor], regions: Tensor) -> Tensor:
    """Pool regions [R, 5]; from a pyramid every region from every level, other levels' from outside the map."""
    if len(pooler.strides) == 1:
        return _pool(pooler, features[0], regions, pooler.strides[0])
    image, boxes = regions[:, :1], regions[:, 1:]
    level = pooler.levels(boxes)
    outside = boxes.new_tensor([_OUTSIDE, _OUTSIDE, _OUTSIDE + 16, _OUTSIDE + 16])
    parts = [
        _pool(pooler, features[i], torch.cat((image, torch.where((level == i)[:, None], boxes, outside)), 1), stride)
        for i, stride in enumerate(pooler.strides)
    ]
    return sum(parts[1:], parts[0])


def _pool(pooler: RoIPooler, x: Tensor, regions: Tensor, stride: int) -> Tensor:
    size, scale = pooler.resolution, 1.0 / stride
    if pooler.pool == "max":
        pooled = roi_pool(x, regions, size, scale)
    else:
        pooled = roi_align(x, regions, size, scale, pooler.sampling_ratio, pooler.aligned)
    return pooled if pooler.bin_stride == 1 else pooled[:, :, :: pooler.bin_stride, :: pooler.bin_stride]


def clip_to(boxes: Tensor, limits: Tensor) -> Tensor:
    """Cut boxes [..., 4] off at 0 and at ``limits``: width, height, width, height."""
    return torch.minimum(boxes.clamp(min=0), limits)


def _fill(x: Tensor, count: int, value: float = 0.0) -> Tensor:
    """Pad [N, n] to at least ``count`` columns."""
    return F.pad(x, (0, max(count - x.shape[1], 0)), value=value) if x.shape[1] < count else x


def _limits(images: Tensor) -> Tensor:
    """Return width, height, width, height of a batch, float32 [1, 1, 4], computed: an exporter would make constants of
    numbers."""
    height, width = images.shape[-2], images.shape[-1]
    side = [torch.ones(length).sum()[None] for length in (width, height)]
    return torch.cat(side * 2)[None, None]
