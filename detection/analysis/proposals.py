"""A two-stage detector's misses: which stage lost each object, and what the proposals and the anchors could reach.

Arrays of one image; the boxes are float64 xyxy in the pixels of the image as the network sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.analysis.scene import Bools, Floats, Ints

STAGES = (
    "found",
    "no anchor",
    "no proposal",
    "scored as background",
    "wrong class",
    "badly refined",
    "below threshold",
    "suppressed by NMS",
    "beyond the limit",
    "found another object",
)
(FOUND, NO_ANCHOR, NO_PROPOSAL, BACKGROUND, WRONG_CLASS, BADLY_REFINED, BELOW, SUPPRESSED, LIMIT, TAKEN) = range(10)


@dataclass(frozen=True)
class ImageStages:
    """What the stages of a detector did with one image.

    Attributes:
        proposals: float64 [P, 4], best first, as they went into the RoI head.
        scores: float64 [P, K + 1], their class probabilities, the background first.
        boxes: float64 [P, K, 4], refined for each class.
        kept: bool [P, K], what NMS left, among those above the threshold; None where NMS did not run.
        final: int64 [D, 2], proposal and class (0..K-1) of each detection that was returned.
    """

    proposals: Floats
    scores: Floats
    boxes: Floats
    kept: Bools
    final: Ints


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """Return the IoU of each of ``a`` [n, 4] with each of ``b`` [m, 4], float64 [n, m]."""
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.clip(size, 0, None).prod(axis=2)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def best_iou(objects: Floats, boxes: Floats, limits: Sequence[int | None] = (None,)) -> Floats:
    """Return the highest IoU of each object with the first boxes, float64 [len(limits), M]; 0 without boxes."""
    overlaps = iou_matrix(objects, boxes)
    return np.stack([overlaps[:, :limit].max(axis=1, initial=0.0) for limit in limits])


def lost_in(
    stages: ImageStages,
    objects: Floats,
    labels: Ints,
    found: Bools,
    anchor_iou: Floats,
    *,
    threshold: float,
    iou: float = 0.5,
    proposal_iou: float = 0.5,
    least_anchor_iou: float = 0.3,
) -> Ints:
    """Return the stage that lost each object, int64 [M]; FOUND where ``found``.

    Where a refined box of the object's class with an IoU of ``iou`` has a score above ``threshold``:

    - suppressed by NMS: every such box gave way to a better one of its class;
    - beyond the limit: NMS left it, and it was not among the detections that are returned;
    - found another object: it was returned, and another object was matched to it.

    Else, in the order in which the detector works:

    - no anchor: no proposal has an IoU of ``proposal_iou``, and no anchor one of ``least_anchor_iou``, below which the RPN
      learns an anchor as background;
    - no proposal: no proposal has an IoU of ``proposal_iou``;
    - badly refined: a proposal on it has its class with a score above ``threshold``, and no refined box fits;
    - scored as background, wrong class, below threshold: what is most probable for the proposal on it that has the highest
      score of its class: the background, another class, or its own class, which is not above the threshold.

    Args:
        stages: of the image.
        objects: float64 [M, 4].
        labels: int64 [M], 0..K-1.
        found: bool [M], objects that a detection matched.
        anchor_iou: float64 [M], the highest with an anchor.
        threshold: of the scores.
        iou: of a match.
        proposal_iou, least_anchor_iou: see above.
    """
    result = np.full(len(objects), FOUND, dtype=np.int64)
    near = iou_matrix(objects, stages.proposals) >= proposal_iou
    returned = set(map(tuple, stages.final.tolist()))
    for j in np.flatnonzero(~found).tolist():
        label = int(labels[j])
        fits = iou_matrix(stages.boxes[:, label], objects[j : j + 1])[:, 0] >= iou
        above = np.flatnonzero(fits & (stages.scores[:, label + 1] > threshold))
        on_it = np.flatnonzero(near[j])
        if len(above):
            kept = above[stages.kept[above, label]]
            taken = any((p, label) in returned for p in kept.tolist())
            result[j] = SUPPRESSED if not len(kept) else TAKEN if taken else LIMIT
        elif not len(on_it):
            result[j] = NO_ANCHOR if anchor_iou[j] < least_anchor_iou else NO_PROPOSAL
        else:
            own = stages.scores[on_it, label + 1]
            top = int(stages.scores[on_it[np.argmax(own)]].argmax())
            by_class = BELOW if top == label + 1 else BACKGROUND if top == 0 else WRONG_CLASS
            result[j] = BADLY_REFINED if own.max() > threshold else by_class
    return result
