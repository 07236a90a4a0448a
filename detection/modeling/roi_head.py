"""Fast R-CNN on regions: RoI pooling, a head (conv5_x, or two layers), and the sibling class and box layers (ResNet paper,
appendix A; for a pyramid Lin et al., 2017, section 4.2).

Shapes: R regions of all images, K classes, label 0 the background.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detection.modeling.box_coder import BoxCoder
from detection.modeling.losses import box_loss, classification_loss, normaliser
from detection.modeling.matcher import FOREGROUND, IGNORED, Matcher
from detection.modeling.roi_pooler import as_regions
from detection.modeling.sampler import Sampler
from detection.modeling.structures import Detections, Maps, Target, as_maps
from detection.ops.boxes import at_least_float32, clip, larger_than
from detection.ops.chunked_loss import chunked_backward
from detection.ops.nms import apart


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
            than their activations are held (:func:`chunked_backward`); None takes all. A head whose norms are in training
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
            loss = chunked_backward(losses, len(label), at_once, inputs)
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
