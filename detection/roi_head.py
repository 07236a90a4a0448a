"""Fast R-CNN on regions: RoI pooling, a head (conv5_x, or two layers), and the sibling class and box layers (ResNet paper,
appendix A; for a pyramid Lin et al., 2017, section 4.2).

Shapes: R regions of all images, K classes, label 0 the background.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_pool

from detection.box_coding import BoxCoder
from detection.boxes import area, at_least_float32, clip
from detection.losses import box_loss, classification_loss, normaliser
from detection.matching import Matcher
from detection.roi_align import roi_align
from detection.sampling import Sampler
from detection.targets import Detections, Maps, Target, as_maps


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

    def forward(self, features: Maps, boxes: list[Tensor]) -> Tensor:
        """Map [N, C, H, W], or several, and boxes [r_i, 4] an image in pixels -> [R, C, S, S], S = resolution / every."""
        maps = as_maps(features)
        flat = torch.cat(boxes)
        image = torch.cat([torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)])
        regions = torch.cat((image, flat), dim=1)
        if len(self.strides) == 1:
            return self._pool(maps[0], regions, self.strides[0])
        level = self.levels(flat)
        pooled: Tensor | None = None
        for i, stride in enumerate(self.strides):
            chosen = (level == i).nonzero()[:, 0]
            part = self._pool(maps[i], regions[chosen], stride)
            if pooled is None:
                pooled = part.new_zeros(len(flat), *part.shape[1:])
            pooled = pooled.index_put((chosen,), part)
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
    ) -> None:
        super().__init__()
        self.pooler, self.head = pooler, head
        self.classes = nn.Linear(channels, num_classes + 1)
        self.deltas = nn.Linear(channels, num_classes * 4)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.deltas.bias)
        self.num_classes = num_classes
        self.matcher, self.sampler, self.coder = matcher, sampler, coder
        self.append_truth, self.beta, self.box_loss_weight = append_truth, beta, box_loss_weight
        self.score_threshold, self.nms_iou, self.max_detections = score_threshold, nms_iou, max_detections

    def forward(self, features: Maps, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [R, K + 1] and offsets [R, K, 4] of the regions of all images."""
        regions = self.head(self.pooler(features, boxes))
        if regions.dim() == 4:
            regions = regions.mean(dim=(2, 3))
        return self.classes(regions), self.deltas(regions).view(-1, self.num_classes, 4)

    def losses(
        self, features: Maps, proposals: list[Tensor], targets: list[Target], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``loss_classifier`` and ``loss_box`` over the sampled regions of all images."""
        boxes, labels, goals = zip(
            *(self._sample(p, t, generator) for p, t in zip(proposals, targets, strict=True)), strict=True
        )
        label, goal = torch.cat(labels), torch.cat(goals)
        logits, deltas = self(features, list(boxes))
        foreground = label.nonzero()[:, 0]
        count = normaliser(len(label), label.device, self.training)
        chosen = deltas[foreground, label[foreground] - 1]
        return {
            "loss_classifier": classification_loss(logits, label, count),
            "loss_box": self.box_loss_weight * box_loss(chosen, goal, self.beta, count),
        }

    @torch.no_grad()
    def _sample(
        self, proposals: Tensor, target: Target, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled regions [r, 4], their labels [r], and the offsets [f, 4] of the foreground, which comes first."""
        truth = target["boxes"]
        if self.append_truth:
            proposals = torch.cat((proposals, truth))
        index, label = self.matcher(truth, proposals)
        foreground, background = self.sampler(label, generator)
        matched = index[foreground]
        labels = torch.cat((target["labels"][matched], torch.zeros_like(background)))
        goal = self.coder.encode(truth[matched], proposals[foreground])
        return proposals[torch.cat((foreground, background))], labels, goal

    def detections(self, features: Maps, proposals: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """Scores, class by class NMS and the best ``max_detections`` of every image."""
        logits, deltas = self(features, proposals)
        scores = at_least_float32(logits).softmax(dim=1)[:, 1:]
        counts = [len(boxes) for boxes in proposals]
        parts = zip(proposals, scores.split(counts), deltas.split(counts), sizes, strict=True)
        return [self._select(*part) for part in parts]

    def _select(self, proposals: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]) -> Detections:
        region, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        boxes = clip(self.coder.decode(deltas[region, label], proposals[region]), size)
        score = scores[region, label]
        keep = batched_nms(boxes, score, label, self.nms_iou)[: self.max_detections]
        return {"boxes": boxes[keep], "labels": label[keep] + 1, "scores": score[keep]}
