"""The region proposal network (Faster R-CNN, section 3.1): where may objects be?

Shapes: N images, A anchors of all maps together, k anchors at a position. There is one map, or the levels of a pyramid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import batched_nms

from detection.modeling.anchors import AnchorGenerator
from detection.modeling.box_coder import BoxCoder
from detection.modeling.losses import box_loss, normaliser, objectness_loss
from detection.modeling.matcher import FOREGROUND, IGNORED, Matcher
from detection.modeling.sampler import RandomSampler, Sampler, sample
from detection.modeling.structures import Maps, Target, as_maps
from detection.ops.boxes import at_least_float32, clip, inside, larger_than
from detection.ops.device import use_padding
from detection.ops.nms import batched_nms_mask, nms_topk


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals leave the RPN.

    Attributes:
        before_nms: the highest-scored anchors of each map that are decoded.
        after_nms: boxes kept (the paper: 2000 to train, 300 to test; detectron2's C4: 2000, 1000).
    """

    before_nms: int
    after_nms: int


@dataclass(frozen=True)
class RPNOutput:
    """The network's output for every anchor: logits [N, A], offsets [N, A, 4], the anchors [A, 4] that all images share;
    ``counts`` says how many of the A each map has."""

    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    counts: tuple[int, ...]


class RPN(nn.Module):
    """A 3x3 convolution and two sibling 1x1 layers over the shared map, or over each level of a pyramid.

    Args:
        in_channels: of the maps.
        anchors: a generator of anchors for each map, all with as many at a position.
        channels: of the 3x3 convolution; None keeps ``in_channels`` (detectron2), py-faster-rcnn has 512.
        foreground_iou: anchors at this IoU and above are foreground, and so is each object's best one.
        background_iou: anchors below this IoU are background.
        batch_per_image: anchors sampled per image.
        foreground_fraction: at most this fraction of them is foreground.
        ignore_cross_boundary: anchors that cross the image's edge take no part in training (the paper; detectron2 keeps
            them).
        before_nms_train: best anchors of each map decoded in training (py-faster-rcnn: 12000).
        after_nms_train: proposals kept in training.
        before_nms_test: best anchors of each map decoded in testing.
        after_nms_test: proposals kept in testing (the paper: 300).
        nms_iou: proposals that overlap a better one by more are dropped.
        min_size: proposals with a shorter side, in pixels, are dropped (py-faster-rcnn 16, detectron2 0).
        beta: of the smooth L1 loss; 0 is L1 (py-faster-rcnn: 1/9).
        box_loss_weight: on the box loss.
    """

    def __init__(
        self,
        in_channels: int,
        anchors: Sequence[AnchorGenerator],
        *,
        channels: int | None = None,
        foreground_iou: float = 0.7,
        background_iou: float = 0.3,
        batch_per_image: int = 256,
        foreground_fraction: float = 0.5,
        ignore_cross_boundary: bool = False,
        before_nms_train: int = 12000,
        after_nms_train: int = 2000,
        before_nms_test: int = 6000,
        after_nms_test: int = 1000,
        nms_iou: float = 0.7,
        min_size: float = 0.0,
        beta: float = 0.0,
        box_loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        channels = channels or in_channels
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        if len({generator.per_position for generator in anchors}) != 1:
            counts = [generator.per_position for generator in anchors]
            raise ValueError(
                f"all maps share the layers: wanted the same number of anchors at a position, got {counts}"
            )
        self.objectness = nn.Conv2d(channels, anchors[0].per_position, 1)
        self.deltas = nn.Conv2d(channels, anchors[0].per_position * 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # these layers have one
        self.anchors = nn.ModuleList(anchors)
        self.matcher = Matcher(foreground_iou, background_iou, keep_best=True)
        self.sampler: Sampler = RandomSampler(batch_per_image, foreground_fraction)
        self.coder = BoxCoder()
        self.train_limits = ProposalLimits(before_nms_train, after_nms_train)
        self.test_limits = ProposalLimits(before_nms_test, after_nms_test)
        self.nms_iou, self.min_size = nms_iou, min_size
        self.ignore_cross_boundary = ignore_cross_boundary
        self.beta, self.box_loss_weight = beta, box_loss_weight

    def forward(self, features: Maps) -> RPNOutput:
        """Compute the logit and the offsets of each of the H·W·k anchors of a map [N, C, H, W], or of several."""
        logits, offsets, anchors = [], [], []
        maps = as_maps(features)
        finest: AnchorGenerator = self.anchors[0]  # type: ignore[assignment]  # ModuleList yields plain Modules
        image = (maps[0].shape[-2] * finest.stride, maps[0].shape[-1] * finest.stride)
        for x, generator in zip(maps, self.anchors, strict=True):
            hidden = self.conv(x).relu_()
            objectness, deltas = self.objectness(hidden), self.deltas(hidden)
            n, _, height, width = objectness.shape
            logits.append(objectness.permute(0, 2, 3, 1).reshape(n, -1))  # [N, k, H, W] -> [N, H·W·k]
            # [N, k·4, H, W] -> [N, H·W·k, 4]: an anchor's four are neighbours
            offsets.append(deltas.permute(0, 2, 3, 1).reshape(n, -1, 4))
            anchors.append(generator(height, width, image))
        counts = tuple(len(map_anchors) for map_anchors in anchors)
        if len(anchors) == 1:
            return RPNOutput(logits[0], offsets[0], anchors[0], counts)
        return RPNOutput(torch.cat(logits, dim=1), torch.cat(offsets, dim=1), torch.cat(anchors), counts)

    @torch.no_grad()
    def proposals(
        self,
        output: RPNOutput,
        sizes: Sequence[tuple[int, int]],
        padded: bool | None = None,
        *,
        for_losses: bool | None = None,
    ) -> list[Tensor]:
        """Return the proposals [P, 4] of each image, best first: each map's top anchors decoded, clipped, without small
        ones, after NMS map by map.

        Args:
            output: of :meth:`forward`.
            sizes: (height, width) of the images.
            padded: P is fixed, ``after_nms`` or all anchors there are, and padded slots are empty boxes
                (:func:`detection.ops.boxes.larger_than` tells them); None picks by device.
            for_losses: how many there are follows training's limits, else testing's; None picks by the module's mode.
        """
        limits = self.train_limits if (self.training if for_losses is None else for_losses) else self.test_limits
        scores, top, counts = self._top(output, limits.before_nms)
        deltas = output.deltas.gather(1, top[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(deltas, output.anchors[top])
        boxes = torch.stack([clip(image_boxes, size) for image_boxes, size in zip(boxes, sizes, strict=True)])
        valid = larger_than(boxes, self.min_size) & scores.isfinite()
        if use_padding(padded, boxes.device):
            return list(self._nms_padded(boxes, scores, valid, counts, limits.after_nms))
        return self._nms(boxes, scores, valid, counts, limits.after_nms)

    def _nms(self, boxes: Tensor, scores: Tensor, valid: Tensor, counts: tuple[int, ...], limit: int) -> list[Tensor]:
        level = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(boxes.device)
        kept = []
        for image_boxes, score, image_valid in zip(boxes, scores, valid, strict=True):
            image_boxes, score = image_boxes[image_valid], score[image_valid]
            if len(counts) > 1:
                order = batched_nms(image_boxes, score, level[image_valid], self.nms_iou)
            else:
                order = nms_topk(image_boxes, score, self.nms_iou, limit)
            kept.append(image_boxes[order[:limit]])
        return kept

    def _nms_padded(self, boxes: Tensor, scores: Tensor, valid: Tensor, counts: tuple[int, ...], limit: int) -> Tensor:
        """The same of all images at once, [N, P, 4], without a sync. Boxes [N, A, 4] are sorted by score within each map's
        ``counts``."""

        def sets(x: Tensor) -> Tensor:  # every map of every image is a set, all padded to the longest
            maps = pad_sequence([part.transpose(0, 1) for part in x.split(counts, dim=1)], batch_first=True)
            return maps.movedim(2, 0).flatten(0, 1)  # [maps, A', N, …] -> [N·maps, A', …]

        kept = batched_nms_mask(sets(boxes), sets(valid), self.nms_iou, limit).unflatten(0, (-1, len(counts)))
        keep = torch.cat([mask[:, :count] for mask, count in zip(kept.unbind(1), counts, strict=True)], dim=1)
        score, order = scores.masked_fill(~keep, -torch.inf).sort(dim=1, descending=True, stable=True)
        score, order = score[:, :limit], order[:, :limit]
        best = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return torch.where(score.isfinite()[..., None], best, 0.0)

    @staticmethod
    def _top(output: RPNOutput, count: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return the highest logits of each map and their positions among all anchors, each [N, P], and each map's count."""
        begin, scores, tops = 0, [], []
        for logits in at_least_float32(output.objectness).split(output.counts, dim=1):
            score, top = logits.topk(min(count, logits.shape[1]), dim=1)
            scores.append(score)
            tops.append(top + begin)
            begin += logits.shape[1]
        counts = tuple(top.shape[1] for top in tops)
        return torch.cat(scores, dim=1), torch.cat(tops, dim=1), counts

    def _match(self, truth: Tensor, anchors: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the object and the label of every anchor. Where anchors across the edge are ignored, an object's best
        anchor is the best of the others, so that an object at the edge has one too."""
        if not self.ignore_cross_boundary:
            return self.matcher(truth, anchors)
        kept = inside(anchors, size)
        index, label = self.matcher(truth, anchors * kept[:, None])  # an empty box is no object's best
        return index, label.masked_fill(~kept, IGNORED)

    def losses(
        self,
        output: RPNOutput,
        sizes: Sequence[tuple[int, int]],
        targets: list[Target],
        generator: torch.Generator | None = None,
        padded: bool | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss_objectness`` and ``loss_rpn_box`` over the sampled anchors of all images (equation 1).

        The normaliser is the quota of all images, also where an image has fewer anchors to offer (as in detectron2).
        """
        padded = use_padding(padded, output.objectness.device)
        anchors = len(output.anchors)
        indices, kinds, offsets = [], [], []
        for i, (size, target) in enumerate(zip(sizes, targets, strict=True)):
            matched, label = self._match(target["boxes"], output.anchors, size)
            index, kind = sample(self.sampler, label, generator, padded)
            indices.append(index + i * anchors)
            kinds.append(kind)
            offsets.append(self.coder.encode_matched(target["boxes"], matched[index], output.anchors[index]))
        count = normaliser(self.sampler.quota * len(sizes), output.objectness.device, self.training)
        sampled, kind = torch.cat(indices), torch.cat(kinds)
        logits = output.objectness.flatten()[sampled]
        deltas = output.deltas.flatten(0, 1)[sampled]
        foreground = kind == FOREGROUND
        return {
            "loss_objectness": objectness_loss(logits, kind, count),
            "loss_rpn_box": self.box_loss_weight * box_loss(deltas, torch.cat(offsets), foreground, self.beta, count),
        }
