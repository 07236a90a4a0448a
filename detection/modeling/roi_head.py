"""Fast R-CNN on regions: RoI pooling, a head (conv5_x, or two layers), and the sibling class and box layers (ResNet paper,
appendix A; for a pyramid Lin et al., 2017, section 4.2).

Shapes: R regions of all images, K classes, label 0 the background.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, nms

from backbone.norm import BATCH_NORM
from detection.modeling.box_coder import BoxCoder
from detection.modeling.losses import box_loss, classification_loss, normaliser
from detection.modeling.matcher import FOREGROUND, IGNORED, Matcher
from detection.modeling.roi_pooler import as_regions
from detection.modeling.sampler import RandomSampler, Sampler, sample
from detection.modeling.structures import Detections, Maps, Target, as_maps
from detection.ops.boxes import at_least_float32, clip, larger_than
from detection.ops.chunked_loss import chunked_backward
from detection.ops.device import rows_at_once, use_padding
from detection.ops.nms import batched_nms_mask
from detection.ops.soft_nms import Suppression, soft_nms

# settings of the head -> the loop of ops/soft_nms.py
SUPPRESSION: dict[str, Suppression] = {"hard": "hard", "soft_linear": "linear", "soft_gaussian": "gaussian"}


class TwoLayerHead(nn.Module):
    """Two fully connected layers with ReLUs: pooled regions [R, C, S, S] -> [R, fc_channels].

    Args:
        channels, resolution: C and S.
        fc_channels: outputs of both layers.
    """

    def __init__(self, channels: int, resolution: int, *, fc_channels: int = 1024) -> None:
        super().__init__()
        self.out_channels = fc_channels
        self.fc1 = nn.Linear(channels * resolution**2, fc_channels)
        self.fc2 = nn.Linear(fc_channels, fc_channels)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x.flatten(1)).relu()).relu()


class RoIHead(nn.Module):
    """Classifies and refines regions of the shared map.

    Args:
        pooler: the RoI pooling.
        head: pooled regions [R, C, S, S] -> [R, F, s, s], of which the mean is taken, or [R, F]: conv5_x, a
            :class:`TwoLayerHead`, or a module of your own.
        channels: F.
        num_classes: K, without the background.
        foreground_iou: regions at this IoU and above are foreground.
        background_iou: regions below it are background.
        background_iou_low: regions below this are ignored (Fast R-CNN: 0.1).
        batch_per_image: regions sampled per image (the paper: 64 on VOC with two images, 128 in all).
        foreground_fraction: at most this fraction of them is foreground.
        append_truth: ground truth joins the proposals in training.
        box_weights: on the offsets x, y, w, h.
        beta: of the smooth L1 loss; 0 is L1 (the paper: 1).
        box_loss_weight: on the box loss.
        class_weights: factors on the classification loss of a region, K + 1 in the order of the labels, the background's
            first; None has none. The loss stays a mean over the sampled regions, not over their weights.
        focal_gamma: the classification loss is the focal loss of this gamma (Lin et al., 2017: 2), in its softmax form:
            layers, scores and files stay those of the cross-entropy, which gamma 0 is. The paper's alpha is a class weight.
        score_threshold: detections need a higher score.
        nms: of the detections. hard drops those that overlap a better one; soft_linear and soft_gaussian lower their scores
            (soft-NMS, Bodla et al., 2017), and drop what falls to score_threshold, for which the paper takes 0.001.
        class_agnostic_nms: detections of all classes suppress each other, not only those of one class.
        nms_iou: hard and soft_linear: overlaps by more count (py-faster-rcnn: 0.3; the soft-NMS paper: 0.3).
        nms_sigma: of soft_gaussian, which has no nms_iou.
        max_detections: kept per image.
        min_size: detections with a shorter side, in pixels, are dropped (torchvision 0.01, detectron2 0).
        context: global context (ResNet paper, appendix B): the whole image is a region too, and its features are appended to
            those of every region, F more inputs of the class and box layers. The paper leaves open whether the head shares
            its weights for it; here it does.
        chunk_size: regions that the head takes at a time on a CPU, so that they stay in its cache, and in training no more
            than their activations are held (:func:`chunked_backward`); None takes all. A head whose norms are in training
            always gets all.

    Attributes:
        sampled: how many regions the last losses were means over, of one process on average.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        pooler: nn.Module,
        head: nn.Module,
        channels: int,
        num_classes: int,
        *,
        foreground_iou: float = 0.5,
        background_iou: float = 0.5,
        background_iou_low: float = 0.0,
        batch_per_image: int = 512,
        foreground_fraction: float = 0.25,
        append_truth: bool = True,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = 0.0,
        box_loss_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
        focal_gamma: float = 0.0,
        score_threshold: float = 0.05,
        nms: Literal["hard", "soft_linear", "soft_gaussian"] = "hard",
        class_agnostic_nms: bool = False,
        nms_iou: float = 0.5,
        nms_sigma: float = 0.5,
        max_detections: int = 100,
        min_size: float = 0.0,
        context: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.pooler, self.head, self.chunk_size = pooler, head, chunk_size
        self.context = context
        channels *= 2 if context else 1
        self.classes = nn.Linear(channels, num_classes + 1)
        self.deltas = nn.Linear(channels, num_classes * 4)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.deltas.bias)
        self.num_classes = num_classes
        self.sampled: Tensor | None = None
        self.matcher = Matcher(foreground_iou, background_iou, background_iou_low)
        self.sampler: Sampler = RandomSampler(batch_per_image, foreground_fraction)
        self.coder = BoxCoder(box_weights)
        self.append_truth, self.beta, self.box_loss_weight = append_truth, beta, box_loss_weight
        self.score_threshold, self.nms_iou, self.max_detections = score_threshold, nms_iou, max_detections
        self.min_size = min_size
        self.nms, self.class_agnostic_nms, self.nms_sigma = nms, class_agnostic_nms, nms_sigma
        self.focal_gamma = focal_gamma
        if class_weights is not None and len(class_weights) != num_classes + 1:
            raise ValueError(
                f"class_weights wants {num_classes + 1} numbers, the background's first, got {len(class_weights)}"
            )
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        if nms not in SUPPRESSION:
            raise ValueError(f"nms must be one of {', '.join(SUPPRESSION)}, got {nms!r}")

    def forward(
        self,
        features: Maps,
        regions: Tensor,
        padded: bool | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return class logits [R, K + 1] and offsets [R, K, 4] of regions [R, 5]: image index, then a box in pixels.

        ``sizes``, the images' (height, width) without padding, are what global context needs.
        """
        pooled = self.pooler(features, self.with_whole_images(regions, sizes), padded)
        return self.classify(self.describe(pooled), regions)

    def with_whole_images(self, regions: Tensor, sizes: Sequence[tuple[int, int]] | None) -> Tensor:
        """Return the regions [R, 5], with global context behind those of the N whole images, [N + R, 5]."""
        if not self.context:
            return regions
        if sizes is None:
            raise ValueError("global context (model.roi.context) needs the images' sizes: pass sizes=")
        rows = [[float(i), 0.0, 0.0, float(width), float(height)] for i, (height, width) in enumerate(sizes)]
        return torch.cat((torch.tensor(rows, dtype=regions.dtype).to(regions.device, non_blocking=True), regions))

    def describe(self, pooled: Tensor) -> Tensor:
        """Return the features [R, F] of pooled regions [R, C, S, S]."""
        return self.average(self.head(pooled))

    @staticmethod
    def average(x: Tensor) -> Tensor:
        """Return the mean over all positions of what the head gives, [R, F, s, s] -> [R, F]; [R, F] as it is."""
        return x.mean(dim=(2, 3)) if x.dim() == 4 else x

    def classify(self, x: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits [R, K + 1] and offsets [R, K, 4] of the features of regions [R, 5], or of those that
        :meth:`with_whole_images` returns for them."""
        if self.context:
            images = len(x) - len(regions)
            x = torch.cat((x[images:], x[:images][regions[:, 0].long()]), dim=1)
        return self.classes(x), self.deltas(x).view(-1, self.num_classes, 4)

    def losses(
        self,
        features: Maps,
        proposals: list[Tensor],
        targets: list[Target],
        generator: torch.Generator | None = None,
        padded: bool | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss_classifier`` and ``loss_box`` over the sampled regions of all images."""
        padded = use_padding(padded, proposals[0].device)
        sampled = [self._sample(p, t, generator, padded) for p, t in zip(proposals, targets, strict=True)]
        boxes, labels, offsets = zip(*sampled, strict=True)
        regions, label, offset = as_regions(boxes), torch.cat(labels), torch.cat(offsets)
        count = self.sampled = normaliser((label != IGNORED).sum(), label.device, self.training)

        def losses(rows: slice) -> Tensor:
            logits, deltas = self(features, regions[rows], padded, sizes)
            target = label[rows]
            of_class = deltas[torch.arange(len(target), device=target.device), (target - 1).clamp(min=0)]
            return torch.stack(
                (
                    classification_loss(logits, target, count, self.class_weights, self.focal_gamma),
                    self.box_loss_weight * box_loss(of_class, offset[rows], target > 0, self.beta, count),
                )
            )

        chunk_size = self._chunk_size(label.device)
        if padded and self._uses_batch_statistics():
            # batch norms in training must not see padding, whatever the sync costs
            filled = (label != IGNORED).nonzero()[:, 0]
            regions, label, offset = regions[filled], label[filled], offset[filled]
        inputs = [x for x in (*as_maps(features), *self.parameters()) if x.requires_grad]
        if chunk_size is None or chunk_size >= len(label) or not inputs or not torch.is_grad_enabled():
            loss = losses(slice(0, len(label)))
        else:
            loss = chunked_backward(losses, len(label), chunk_size, inputs)
        return {"loss_classifier": loss[0], "loss_box": loss[1]}

    def _chunk_size(self, device: torch.device) -> int | None:
        return None if self._uses_batch_statistics() else rows_at_once(device, self.chunk_size)

    def _uses_batch_statistics(self) -> bool:
        """Whether regions change each other's outputs: the head has batch norms, and they are in training."""
        return any(isinstance(m, BATCH_NORM) and m.training for m in self.head.modules())

    @torch.no_grad()
    def _sample(
        self, proposals: Tensor, target: Target, generator: torch.Generator | None, padded: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return sampled regions [r, 4], their labels [r] (0 the background, IGNORED padding), and the offsets [r, 4] to
        their objects, which mean nothing for the background."""
        truth = target["boxes"]
        if self.append_truth:
            proposals = torch.cat((proposals, truth))
        if padded:  # padded slots to the end: the sampler then draws as in the compact form
            proposals = proposals[(~larger_than(proposals, 0.0)).to(torch.int8).argsort(stable=True)]
        matched, label = self.matcher(truth, proposals)
        label = label.masked_fill(~larger_than(proposals, 0.0), IGNORED)  # padded slots
        index, kind = sample(self.sampler, label, generator, padded)
        boxes, matched = proposals[index], matched[index]
        labels = kind.long()
        if len(truth):
            labels = torch.where(kind == FOREGROUND, target["labels"][matched], labels)
        return boxes, labels, self.coder.encode_matched(truth, matched, boxes)

    def detections(
        self,
        features: Maps,
        proposals: list[Tensor],
        sizes: Sequence[tuple[int, int]],
        padded: bool | None = None,
    ) -> list[Detections]:
        """Return the best ``max_detections`` of every image after class-wise NMS; with ``padded`` always as many, padded
        slots last with a score of 0 (:func:`without_padding`)."""
        padded = use_padding(padded, proposals[0].device)
        scores, deltas = self.predictions(features, proposals, sizes, padded)
        without_background = [image[:, 1:] for image in scores]
        images = zip(proposals, without_background, deltas, sizes, strict=True)
        postprocess = self._postprocess_padded if padded else self._postprocess
        return [postprocess(*image) for image in images]

    def predictions(
        self,
        features: Maps,
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        padded: bool | None = None,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return for each image the class probabilities of its proposals [P, K + 1], the background first, and their
        offsets [P, K, 4]."""
        outputs = [self(features, chunk, padded, sizes) for chunk in self.chunks(as_regions(proposals))]
        logits, deltas = (torch.cat(part) for part in zip(*outputs, strict=True))
        scores = at_least_float32(logits).softmax(dim=1)
        counts = [len(boxes) for boxes in proposals]
        return scores.split(counts), deltas.split(counts)

    def chunks(self, regions: Tensor) -> Sequence[Tensor]:
        """Return regions in as many pieces as the head takes them in."""
        return regions.split(self._chunk_size(regions.device) or max(len(regions), 1))

    def _postprocess(self, proposals: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]) -> Detections:
        region, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        boxes = clip(self.coder.decode(deltas[region, label], proposals[region]), size)
        return self.select(boxes, scores[region, label], label)

    def select(self, boxes: Tensor, score: Tensor, label: Tensor, nms_iou: float | None = None) -> Detections:
        """Return the best ``max_detections`` after NMS of boxes [n, 4] with scores [n] above the threshold and labels [n] of
        0..K-1; ``nms_iou`` replaces the head's."""
        nms_iou = self.nms_iou if nms_iou is None else nms_iou
        valid = self._valid(boxes)
        boxes, label, score = boxes[valid], label[valid], score[valid]
        if self.nms == "hard":
            kept = nms(boxes, score, nms_iou) if self.class_agnostic_nms else batched_nms(boxes, score, label, nms_iou)
            keep = kept[: self.max_detections]
        else:
            keep, final = self._suppress(boxes, score, label, nms_iou)
            keep, final = keep[final > 0], final[final > 0]
            return {"boxes": boxes[keep], "labels": label[keep] + 1, "scores": final}
        return {"boxes": boxes[keep], "labels": label[keep] + 1, "scores": score[keep]}

    def select_padded(self, boxes: Tensor, score: Tensor, label: Tensor, nms_iou: float | None = None) -> Detections:
        """The same without a sync, of any scores: always ``max_detections``, or as many as there are boxes; padded slots
        last with a score of 0."""
        valid = (score > self.score_threshold) & self._valid(boxes)
        nms_iou = self.nms_iou if nms_iou is None else nms_iou
        index, best = self._suppress(boxes, torch.where(valid, score, 0.0), label, nms_iou)
        boxes = torch.where(best[:, None] > 0, boxes[index], 0.0)
        return {"boxes": boxes, "labels": label[index] + 1, "scores": best}

    def _suppress(self, boxes: Tensor, score: Tensor, label: Tensor, nms_iou: float) -> tuple[Tensor, Tensor]:
        """Return the best boxes' rows and final scores, as :func:`soft_nms`."""
        return soft_nms(
            boxes,
            score,
            None if self.class_agnostic_nms else label,
            method=SUPPRESSION[self.nms],
            iou=nms_iou,
            limit=self.max_detections,
            sigma=self.nms_sigma,
            threshold=self.score_threshold,
        )

    def _valid(self, boxes: Tensor) -> Tensor:
        """Return which boxes [..., 4] are none of overflowed offsets, and not too small."""
        size = boxes[..., 2:] - boxes[..., :2]
        return boxes.isfinite().all(dim=-1) & (size >= self.min_size).all(dim=-1)

    def _postprocess_padded(
        self, proposals: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> Detections:
        """The same without a sync: always ``max_detections``, or as many as there are scores."""
        scores = scores * larger_than(proposals, 0.0)[:, None]
        score, region = scores.t().sort(dim=1, descending=True, stable=True)  # [K, P]: every class is a set
        label = torch.arange(len(score), device=score.device)[:, None].expand_as(region)
        boxes = clip(self.coder.decode(deltas[region, label], proposals[region]), size)
        if self.nms != "hard" or self.class_agnostic_nms:  # one set of all classes, too large for the mask's kernel
            return self.select_padded(boxes.flatten(0, 1), score.flatten(), label.flatten())
        valid = (score > self.score_threshold) & self._valid(boxes)
        kept = batched_nms_mask(boxes, valid, self.nms_iou, self.max_detections)
        best, index = torch.where(kept, score, 0.0).flatten().sort(descending=True, stable=True)
        best, index = best[: self.max_detections], index[: self.max_detections]
        boxes = torch.where(best[:, None] > 0, boxes.flatten(0, 1)[index], 0.0)
        return {"boxes": boxes, "labels": label.flatten()[index] + 1, "scores": best}


def without_padding(detections: list[Detections]) -> list[Detections]:
    """Drop the padded slots of detections; one host-device synchronisation."""
    counts = torch.stack([(image["scores"] > 0).sum() for image in detections]).tolist()
    return [
        {"boxes": image["boxes"][:count], "labels": image["labels"][:count], "scores": image["scores"][:count]}
        for image, count in zip(detections, counts, strict=True)
    ]
