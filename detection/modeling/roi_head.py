"""Fast R-CNN on regions: RoI pooling, a head (conv5_x, or two layers), and the sibling class and box layers (ResNet paper,
appendix A; for a pyramid Lin et al., 2017, section 4.2).

Shapes: R regions of all images, K classes, label 0 the background.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_pool

from detection.modeling.box_coder import BoxCoder
from detection.modeling.losses import box_loss, classification_loss, normaliser
from detection.modeling.matcher import FOREGROUND, IGNORED, Matcher
from detection.modeling.sampler import Sampler
from detection.modeling.structures import Detections, Maps, Target, as_maps
from detection.ops.boxes import area, at_least_float32, clip, larger_than
from detection.ops.chunked_loss import losses_in_parts
from detection.ops.nms import apart
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


class TwoLayerHead(nn.Module):
    """Two fully connected layers with rectifiers: pooled regions [R, C, S, S] -> [R, width].

    Args:
        channels, resolution: C and S.
        width: of both layers.
    """

    def __init__(self, channels: int, resolution: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * resolution**2, width)
        self.fc2 = nn.Linear(width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x.flatten(1)).relu()).relu()


class RoIHead(nn.Module):
    """Classifies and refines regions of the shared map.

    Args:
        pooler: the RoI pooling.
        head: pooled regions [R, C, S, S] -> [R, F, s, s], of which the mean is taken, or [R, F]: conv5_x, or
            :class:`TwoLayerHead`.
        channels: F.
        num_classes: K, without the background.
        matcher, sampler, coder: the parts that make targets.
        append_truth: ground truth joins the proposals in training.
        beta: of the smooth L1 loss.
        box_loss_weight: on the box loss.
        score_threshold: detections need a higher score (0.05).
        nms_iou: within a class, detections that overlap a better one by more are dropped (0.5; the papers 0.3).
        max_detections: kept an image (100).
        at_once: on a CPU, regions that the head takes at a time, so that they stay in its cache, and in training no more
            than their activations are held (:func:`losses_in_parts`); None takes all. A head whose norms are in training
            always gets all.

    Attributes:
        sampled: how many regions the last losses were means over, of one process on average.
    """

    def __init__(
        self,
        pooler: nn.Module,
        head: nn.Module,
        channels: int,
        num_classes: int,
        *,
        matcher: Matcher,
        sampler: Sampler,
        coder: BoxCoder,
        append_truth: bool,
        beta: float,
        box_loss_weight: float,
        score_threshold: float,
        nms_iou: float,
        max_detections: int,
        at_once: int | None = None,
    ) -> None:
        super().__init__()
        self.pooler, self.head, self.at_once = pooler, head, at_once
        self.classes = nn.Linear(channels, num_classes + 1)
        self.deltas = nn.Linear(channels, num_classes * 4)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.deltas.bias)
        self.num_classes = num_classes
        self.sampled: Tensor | None = None
        self.matcher, self.sampler, self.coder = matcher, sampler, coder
        self.append_truth, self.beta, self.box_loss_weight = append_truth, beta, box_loss_weight
        self.score_threshold, self.nms_iou, self.max_detections = score_threshold, nms_iou, max_detections

    def forward(self, features: Maps, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [R, K + 1] and offsets [R, K, 4] of regions [R, 5]: the image, then a box in pixels."""
        x = self.head(self.pooler(features, regions))
        if x.dim() == 4:
            x = x.mean(dim=(2, 3))
        return self.classes(x), self.deltas(x).view(-1, self.num_classes, 4)

    def losses(
        self, features: Maps, proposals: list[Tensor], targets: list[Target], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``loss_classifier`` and ``loss_box`` over the sampled regions of all images."""
        sampled = [self._sample(p, t, generator) for p, t in zip(proposals, targets, strict=True)]
        boxes, labels, goals = zip(*sampled, strict=True)
        regions, label, goal = as_regions(boxes), torch.cat(labels), torch.cat(goals)
        count = self.sampled = normaliser((label != IGNORED).sum(), label.device, self.training)

        def losses(rows: slice) -> Tensor:
            logits, deltas = self(features, regions[rows])
            own = label[rows]
            of_class = deltas[torch.arange(len(own), device=own.device), (own - 1).clamp(min=0)]
            return torch.stack(
                (
                    classification_loss(logits, own, count),
                    self.box_loss_weight * box_loss(of_class, goal[rows], own > 0, self.beta, count),
                )
            )

        at_once = self._at_once(label.device)
        if label.device.type != "cpu" and self._together():
            # norms that use the batch must not see empty places, whatever the wait costs
            filled = (label != IGNORED).nonzero()[:, 0]
            regions, label, goal = regions[filled], label[filled], goal[filled]
        inputs = [x for x in (*as_maps(features), *self.parameters()) if x.requires_grad]
        if at_once is None or at_once >= len(label) or not inputs or not torch.is_grad_enabled():
            loss = losses(slice(0, len(label)))
        else:
            loss = losses_in_parts(losses, len(label), at_once, inputs)
        return {"loss_classifier": loss[0], "loss_box": loss[1]}

    def _at_once(self, device: torch.device) -> int | None:
        """How many regions the head takes at a time; None for all."""
        return None if device.type != "cpu" or self._together() else self.at_once

    def _together(self) -> bool:
        """Whether regions change each other's outputs: the head has batch norms, and they are in training."""
        batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
        return any(isinstance(m, batch_norms) and m.training for m in self.head.modules())

    @torch.no_grad()
    def _sample(
        self, proposals: Tensor, target: Target, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled regions [r, 4], their labels [r] (0 the background, IGNORED an empty place), and the offsets [r, 4] to
        their objects, which mean nothing for the background."""
        truth = target["boxes"]
        if self.append_truth:
            proposals = torch.cat((proposals, truth))
        index, label = self.matcher(truth, proposals)
        label = label.masked_fill(~larger_than(proposals, 0.0), IGNORED)  # a place that no proposal fills
        place, kind = self.sampler(label, generator)
        boxes, matched = proposals[place], index[place]
        labels = kind.long()
        if len(truth):
            labels = torch.where(kind == FOREGROUND, target["labels"][matched], labels)
        return boxes, labels, self.coder.encode_matched(truth, matched, boxes)

    def detections(self, features: Maps, proposals: list[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Scores, class by class NMS and the best ``max_detections`` of every image."""
        regions = as_regions(proposals)
        answers = [
            self(features, part) for part in regions.split(self._at_once(regions.device) or max(len(regions), 1))
        ]
        logits, deltas = (torch.cat(part) for part in zip(*answers, strict=True))
        scores = at_least_float32(logits).softmax(dim=1)[:, 1:]
        counts = [len(boxes) for boxes in proposals]
        parts = zip(proposals, scores.split(counts), deltas.split(counts), sizes, strict=True)
        select = self._select if regions.device.type == "cpu" else self._fixed_number
        return [select(*part) for part in parts]

    def _select(self, proposals: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]) -> Detections:
        region, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        boxes = clip(self.coder.decode(deltas[region, label], proposals[region]), size)
        there = boxes.isfinite().all(dim=1)  # offsets that overflowed give no box
        boxes, label, score = boxes[there], label[there], scores[region, label][there]
        keep = batched_nms(boxes, score, label, self.nms_iou)[: self.max_detections]
        return {"boxes": boxes[keep], "labels": label[keep] + 1, "scores": score[keep]}

    def _fixed_number(self, proposals: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]) -> Detections:
        """The same without waiting for the device: always ``max_detections``, or as many as there are scores; places that
        nothing fills come last, with a score of 0."""
        scores = scores * larger_than(proposals, 0.0)[:, None]
        score, region = scores.t().sort(dim=1, descending=True, stable=True)  # [K, P]: every class is a set of its own
        label = torch.arange(len(score), device=score.device)[:, None].expand_as(region)
        boxes = clip(self.coder.decode(deltas[region, label], proposals[region]), size)
        valid = (score > self.score_threshold) & boxes.isfinite().all(dim=2)
        kept = apart(boxes, valid, self.nms_iou, self.max_detections)
        best, place = torch.where(kept, score, 0.0).flatten().sort(descending=True, stable=True)
        best, place = best[: self.max_detections], place[: self.max_detections]
        boxes = torch.where(best[:, None] > 0, boxes.flatten(0, 1)[place], 0.0)
        return {"boxes": boxes, "labels": label.flatten()[place] + 1, "scores": best}


def without_empty(found: list[Detections]) -> list[Detections]:
    """Detections without the places that nothing fills; the host waits for the device once."""
    counts = torch.stack([(own["scores"] > 0).sum() for own in found]).tolist()
    return [
        {"boxes": own["boxes"][:count], "labels": own["labels"][:count], "scores": own["scores"][:count]}
        for own, count in zip(found, counts, strict=True)
    ]
