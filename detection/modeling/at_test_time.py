"""What appendix B of the ResNet paper adds at test time: box refinement, voting, multi-scale testing, ensembles; and
test-time augmentation (scales and flips), which is not the paper's.

For an image of P proposals, K classes:

    proposals (of all members) -> scores [P, K], boxes [P, K, 4]       mean over the members
    refine: the boxes are pooled again -> as many scores and boxes      both together are the candidates
    candidates -> NMS class by class -> voting
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from detection.modeling.candidates import Candidates, candidates_of, union, vote
from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.multi_scale import MERGES, Merge, Scale, multi_scale_features
from detection.modeling.roi_head import without_padding
from detection.modeling.roi_pooler import as_regions
from detection.modeling.structures import Detections, check_images
from detection.ops.boxes import at_least_float32, clip, larger_than
from detection.ops.device import use_padding

Refine = Literal["none", "best", "all"]
Sizes = Sequence[tuple[int, int]]  # (height, width)
_MOST_REFINED = 1000  # (region, class) pairs an image, the highest-scored


class AtTestTime(nn.Module):
    """Detectors with what appendix B adds when they are tested.

    Args:
        members: one detector, or several for an ensemble: the proposals of all are scored by each.
        refine: none; best, each region is pooled again from its box of its best class; or all, from the box of each class
            above the score threshold, and scored for that class alone (the 1000 highest-scored). The paper does not say
            which box of a region is meant.
        vote: move each detection to the mean of the candidates around it (:func:`detection.modeling.candidates.vote`).
        merge: what scales are for: features, conv5 or pooled take the larger of a region's two adjacent scales
            (:func:`detection.modeling.multi_scale.multi_scale_features`), with proposals from the base scale alone; union
            detects at each scale by itself and joins the candidates (test-time augmentation).
        flip: detect on the flipped images too, and join the candidates.
        nms_iou: in place of the detector's own (the paper: 0.3).

    Raises:
        ValueError: detectors of different classes, or an unknown option.
    """

    def __init__(
        self,
        members: Sequence[FasterRCNN],
        *,
        refine: Refine = "none",
        vote: bool = False,
        merge: Merge | Literal["union"] = "features",
        flip: bool = False,
        nms_iou: float | None = None,
    ) -> None:
        super().__init__()
        if refine not in get_args(Refine):
            raise ValueError(f"refine must be one of {', '.join(get_args(Refine))}, got {refine!r}")
        if merge not in (*MERGES, "union"):
            raise ValueError(f"merge must be one of {', '.join((*MERGES, 'union'))}, got {merge!r}")
        counts = {member.roi_head.num_classes for member in members}
        if len(counts) != 1:
            raise ValueError(f"an ensemble is of detectors of the same classes, got {sorted(counts)} classes")
        self.members = nn.ModuleList(members)
        self.refine, self.vote, self.merge, self.flip, self.nms_iou = refine, vote, merge, flip, nms_iou

    @property
    def roi_head(self) -> nn.Module:
        """The first member's: its limits are the ensemble's."""
        return self._members()[0].roi_head

    def _members(self) -> list[FasterRCNN]:
        return list(self.members)  # type: ignore[arg-type]  # ModuleList yields plain Modules

    @torch.no_grad()
    def forward(
        self, images: Sequence[Tensor], scaled: Sequence[Sequence[Tensor]] = (), padded: bool | None = None
    ) -> list[Detections]:
        """Return detections in the pixels of ``images``, float RGB 0..1 [3, H, W] each.

        Args:
            images: at the base scale.
            scaled: the same images at other scales, a list for each image, the smallest first; all have as many. The base
                scale is used for them only where it is among them.
            padded: as for :class:`FasterRCNN`; None as the first member.
        """
        check_images(images)
        first = self._members()[0]
        padded = use_padding(first.padded if padded is None else padded, images[0].device)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        views: list[Sequence[Tensor]] = [images]
        if self.merge == "union" and scaled and len(scaled[0]):
            views = [list(view) for view in zip(*scaled, strict=True)]
        by_scale = [] if self.merge == "union" else list(scaled)
        parts = [self._candidates(view, by_scale, sizes, padded, flipped=False) for view in views]
        if self.flip:
            parts += [self._candidates(view, by_scale, sizes, padded, flipped=True) for view in views]
        found = [union(image_parts) for image_parts in zip(*parts, strict=True)]
        detections = [self._select(candidates, padded) for candidates in found]
        return without_padding(detections) if padded else detections

    def _select(self, candidates: Candidates, padded: bool) -> Detections:
        head = self._members()[0].roi_head
        boxes, scores, labels = candidates.boxes, candidates.scores, candidates.labels
        if padded:
            result = head.select_padded(boxes, scores, labels, self.nms_iou)
        else:
            above = scores > head.score_threshold
            result = head.select(boxes[above], scores[above], labels[above], self.nms_iou)
        return vote(result, candidates, head.score_threshold) if self.vote else result

    def _candidates(
        self, images: Sequence[Tensor], scaled: Sequence[Sequence[Tensor]], base: Sizes, padded: bool, *, flipped: bool
    ) -> list[Candidates]:
        """Return the candidates of each image in the pixels of ``base``, found on ``images``, which may have other sizes."""
        if flipped:
            images = [image.flip(-1) for image in images]
            scaled = [[image.flip(-1) for image in views] for views in scaled]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        views = [_Views(member, images, scaled, sizes, padded) for member in self._members()]
        proposals = [torch.cat(boxes) for boxes in zip(*(view.proposals for view in views), strict=True)]
        scored = self._score(views, proposals)
        found = [candidates_of(*image) for image in scored]
        if self.refine == "best":
            regions = [_best_boxes(*image) for image in scored]
            found = [
                union((first, candidates_of(*again)))
                for first, again in zip(found, self._score(views, regions), strict=True)
            ]
        elif self.refine == "all":
            found = self._refine_all(views, found)
        return [
            _in_base(candidates, size, wanted, flipped)
            for candidates, size, wanted in zip(found, sizes, base, strict=True)
        ]

    def _refine_all(self, views: Sequence["_Views"], found: Sequence[Candidates]) -> list[Candidates]:
        threshold = self._members()[0].roi_head.score_threshold
        chosen = []
        for candidates in found:
            scores, rows = candidates.scores.sort(descending=True, stable=True)
            rows, scores = rows[:_MOST_REFINED], scores[:_MOST_REFINED]
            boxes = torch.where((scores > threshold)[:, None], _usable(candidates.boxes[rows]), 0.0)
            chosen.append((boxes, candidates.labels[rows]))
        result = []
        for first, (_, labels), (scores, boxes) in zip(
            found, chosen, self._score(views, [boxes for boxes, _ in chosen]), strict=True
        ):
            row = torch.arange(len(labels), device=labels.device)
            result.append(union((first, Candidates(boxes[row, labels], scores[row, labels], labels))))
        return result

    def _score(self, views: Sequence["_Views"], regions: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return scores [P, K] and boxes [P, K, 4] of each image's regions [P, 4], the means over the members; a region
        without area has scores of 0."""
        of_members = [view.score(regions, self.merge) for view in views]
        result = []
        for image in zip(*of_members, strict=True):
            if len(image) == 1:
                result.append(image[0])
                continue
            scores, boxes = (torch.stack(part).mean(dim=0) for part in zip(*image, strict=True))
            result.append((scores, boxes))
        return result


class _Views:
    """A member's maps of a batch, at the base scale and at others, and its proposals."""

    def __init__(
        self,
        member: FasterRCNN,
        images: Sequence[Tensor],
        scaled: Sequence[Sequence[Tensor]],
        sizes: Sizes,
        padded: bool,
    ) -> None:
        self.member, self.sizes, self.padded = member, sizes, padded
        self.maps = member.trunk(member.batch(images))
        self.proposals = member.rpn.proposals(member.rpn(self.maps), sizes, padded)
        self.scales: list[Scale] = []
        for view in zip(*scaled, strict=True):
            there = [(image.shape[-2], image.shape[-1]) for image in view]
            maps = self.maps if there == list(sizes) else member.trunk(member.batch(view))
            ratios = [[w / width, h / height] for (h, w), (height, width) in zip(there, sizes, strict=True)]
            self.scales.append(Scale(maps, torch.tensor(ratios).to(self.proposals[0].device)))

    def score(self, regions: Sequence[Tensor], merge: str) -> list[tuple[Tensor, Tensor]]:
        """Return scores [P, K] and clipped boxes [P, K, 4] of each image's regions [P, 4]."""
        head = self.member.roi_head
        outputs = []
        for chunk in head.chunks(as_regions(regions)):
            if self.scales:
                rows = head.with_whole_images(chunk, self.sizes)
                x = multi_scale_features(head, self.scales, rows, merge, self.padded)  # type: ignore[arg-type]
                outputs.append(head.classify(x, chunk))
            else:
                outputs.append(head(self.maps, chunk, self.padded, self.sizes))
        logits, deltas = (torch.cat(part) for part in zip(*outputs, strict=True))
        scores = at_least_float32(logits).softmax(dim=1)[:, 1:]
        counts = [len(boxes) for boxes in regions]
        result = []
        for boxes, image_scores, image_deltas, size in zip(
            regions, scores.split(counts), deltas.split(counts), self.sizes, strict=True
        ):
            decoded = clip(head.coder.decode(image_deltas, boxes[:, None].expand(-1, image_deltas.shape[1], -1)), size)
            result.append((image_scores * larger_than(boxes, 0.0)[:, None], decoded))
        return result


def _best_boxes(scores: Tensor, boxes: Tensor) -> Tensor:
    """Return each region's box of its best class, [P, 4]; one without area where it has none."""
    best = scores.argmax(dim=1)
    chosen = _usable(boxes[torch.arange(len(best), device=best.device), best])
    return torch.where(scores.any(dim=1)[:, None], chosen, 0.0)


def _usable(boxes: Tensor) -> Tensor:
    """Return boxes with those of overflowed offsets, or without area, at 0."""
    return torch.where((boxes.isfinite().all(dim=1) & larger_than(boxes, 0.0))[:, None], boxes, 0.0)


def _in_base(candidates: Candidates, size: tuple[int, int], base: tuple[int, int], flipped: bool) -> Candidates:
    """Return candidates of an image of a size, flipped or not, in the pixels of the image at its base size."""
    boxes = candidates.boxes
    if flipped:
        x1, y1, x2, y2 = boxes.unbind(dim=1)
        boxes = torch.stack((size[1] - x2, y1, size[1] - x1, y2), dim=1)
    if size != base:
        boxes = boxes * boxes.new_tensor([base[1] / size[1], base[0] / size[0]] * 2)
    return Candidates(boxes, candidates.scores, candidates.labels)
