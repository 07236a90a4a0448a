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
from detection.modeling.sampler import Sampler
from detection.modeling.structures import Maps, Target, as_maps
from detection.ops.boxes import at_least_float32, clip, inside, larger_than
from detection.ops.nms import apart, nms_topk


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
    """What the network says of every anchor: logits [N, A], offsets [N, A, 4], the anchors [A, 4] that all images share;
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
        matcher, sampler, coder: the parts that make targets.
        train_limits, test_limits: how many proposals are kept.
        nms_iou: proposals that overlap a better one by more are dropped (0.7).
        min_size: proposals with a shorter side, in pixels, are dropped (py-faster-rcnn 16, detectron2 0).
        ignore_cross_boundary: anchors that cross the image's edge take no part in training (the paper; detectron2 keeps
            them).
        beta: of the smooth L1 loss.
        box_loss_weight: on the box loss.
    """

    def __init__(
        self,
        in_channels: int,
        anchors: Sequence[AnchorGenerator],
        *,
        channels: int | None,
        matcher: Matcher,
        sampler: Sampler,
        coder: BoxCoder,
        train_limits: ProposalLimits,
        test_limits: ProposalLimits,
        nms_iou: float,
        min_size: float,
        ignore_cross_boundary: bool,
        beta: float,
        box_loss_weight: float,
    ) -> None:
        super().__init__()
        channels = channels or in_channels
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        if len({generator.per_position for generator in anchors}) != 1:
            counts = [generator.per_position for generator in anchors]
            raise ValueError(
                f"the same layers look at every map: it wants as many anchors at a position on each, got {counts}"
            )
        self.objectness = nn.Conv2d(channels, anchors[0].per_position, 1)
        self.deltas = nn.Conv2d(channels, anchors[0].per_position * 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # these layers have one
        self.anchors = nn.ModuleList(anchors)
        self.matcher, self.sampler, self.coder = matcher, sampler, coder
        self.train_limits, self.test_limits = train_limits, test_limits
        self.nms_iou, self.min_size = nms_iou, min_size
        self.ignore_cross_boundary = ignore_cross_boundary
        self.beta, self.box_loss_weight = beta, box_loss_weight

    def forward(self, features: Maps) -> RPNOutput:
        """A map [N, C, H, W], or several, to the logit and the offsets of each of its H·W·k anchors."""
        logits, offsets, anchors = [], [], []
        for x, generator in zip(as_maps(features), self.anchors, strict=True):
            hidden = self.conv(x).relu_()
            objectness, deltas = self.objectness(hidden), self.deltas(hidden)
            n, _, height, width = objectness.shape
            logits.append(objectness.permute(0, 2, 3, 1).reshape(n, -1))
            offsets.append(
                deltas.permute(0, 2, 3, 1).reshape(n, -1, 4)
            )  # [N, k·4, H, W]: an anchor's four are neighbours
            anchors.append(generator(height, width))
        counts = tuple(len(a) for a in anchors)
        if len(anchors) == 1:
            return RPNOutput(logits[0], offsets[0], anchors[0], counts)
        return RPNOutput(torch.cat(logits, dim=1), torch.cat(offsets, dim=1), torch.cat(anchors), counts)

    @torch.no_grad()
    def proposals(self, output: RPNOutput, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Boxes [P, 4] an image, best first: each map's top anchors decoded, clipped, without small ones, thinned by NMS
        map by map.

        On a CPU P is their number. Elsewhere P is fixed, ``after_nms`` or all there are, and places that nothing fills are
        boxes without area (:func:`detection.ops.boxes.larger_than` tells them): to know their number the host would have to
        wait for the device.
        """
        limits = self.train_limits if self.training else self.test_limits
        scores, top, counts = self._top(output, limits.before_nms)
        deltas = output.deltas.gather(1, top[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(deltas, output.anchors[top])
        boxes = torch.stack([clip(own, size) for own, size in zip(boxes, sizes, strict=True)])
        valid = larger_than(boxes, self.min_size) & scores.isfinite()
        if boxes.device.type != "cpu":
            return list(self._fixed_number(boxes, scores, valid, counts, limits.after_nms))
        level = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        kept = []
        for own, score, there in zip(boxes, scores, valid, strict=True):
            own, score = own[there], score[there]
            if len(counts) > 1:
                order = batched_nms(own, score, level[there], self.nms_iou)
            else:
                order = nms_topk(own, score, self.nms_iou, limits.after_nms)
            kept.append(own[order[: limits.after_nms]])
        return kept

    def _fixed_number(
        self, boxes: Tensor, scores: Tensor, valid: Tensor, counts: tuple[int, ...], limit: int
    ) -> Tensor:
        """The same of all images at once, [N, P, 4], without waiting for the device. Boxes [N, A, 4] are sorted by score
        within each map's ``counts``."""

        def sets(x: Tensor) -> Tensor:  # every image's every map by itself, all as long as the longest
            maps = pad_sequence([part.transpose(0, 1) for part in x.split(counts, dim=1)], batch_first=True)
            return maps.movedim(2, 0).flatten(0, 1)

        kept = apart(sets(boxes), sets(valid), self.nms_iou, limit).unflatten(0, (-1, len(counts)))
        stays = torch.cat([own[:, :count] for own, count in zip(kept.unbind(1), counts, strict=True)], dim=1)
        score, order = scores.masked_fill(~stays, -torch.inf).sort(dim=1, descending=True, stable=True)
        score, order = score[:, :limit], order[:, :limit]
        best = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return torch.where(score.isfinite()[..., None], best, 0.0)

    @staticmethod
    def _top(output: RPNOutput, count: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """The highest logits of each map and their positions among all anchors, each [N, P], and how many each map has."""
        begin, scores, tops = 0, [], []
        for logits in at_least_float32(output.objectness).split(output.counts, dim=1):
            score, top = logits.topk(min(count, logits.shape[1]), dim=1)
            scores.append(score)
            tops.append(top + begin)
            begin += logits.shape[1]
        counts = tuple(top.shape[1] for top in tops)
        return torch.cat(scores, dim=1), torch.cat(tops, dim=1), counts

    def _match(self, truth: Tensor, anchors: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Object and label of every anchor. Where anchors across the edge are ignored, an object's best anchor is the best
        of the others, so that an object at the edge has one too."""
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
    ) -> dict[str, Tensor]:
        """``loss_objectness`` and ``loss_rpn_box`` over the sampled anchors of all images.

        The normaliser is the quota of all images, also where an image has fewer anchors to offer (as in detectron2).
        """
        anchors = len(output.anchors)
        places, kinds, goals = [], [], []
        for i, (size, target) in enumerate(zip(sizes, targets, strict=True)):
            index, label = self._match(target["boxes"], output.anchors, size)
            place, kind = self.sampler(label, generator)
            places.append(place + i * anchors)
            kinds.append(kind)
            goals.append(self.coder.encode_matched(target["boxes"], index[place], output.anchors[place]))
        count = normaliser(self.sampler.quota * len(sizes), output.objectness.device, self.training)
        sampled, kind = torch.cat(places), torch.cat(kinds)
        logits = output.objectness.flatten()[sampled]
        deltas = output.deltas.flatten(0, 1)[sampled]
        foreground = kind == FOREGROUND
        return {
            "loss_objectness": objectness_loss(logits, kind, count),
            "loss_rpn_box": self.box_loss_weight * box_loss(deltas, torch.cat(goals), foreground, self.beta, count),
        }
