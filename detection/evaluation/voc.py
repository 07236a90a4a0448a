"""PASCAL VOC's average precision at one IoU, as its development kit has it: the 11-point one of 2007 and the area under
the curve of 2010 and later. COCO's matching gives other numbers: there a detection takes the best object still free."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def voc_ap(
    truth: dict[str, Any], detections: list[dict[str, Any]], iou: float = 0.5
) -> dict[str, tuple[float | None, float | None]]:
    """Average precision of every class: (11-point, area under the curve).

    Args:
        truth: COCO-form annotations with "difficult" (or "iscrowd"), which count neither for nor against. Boxes have
            exclusive right and bottom edges: VOC's inclusive corners with xmin and ymin less one, so that widths are
            VOC's xmax - xmin + 1.
        detections: COCO results.
        iou: a detection needs at least this overlap.

    Returns:
        None for a class without (not difficult) ground truth; 0.0 where nothing was found.
    """
    number = {image["id"]: i for i, image in enumerate(truth["images"])}
    objects, found = _Boxes(truth["annotations"], number), _Boxes(detections, number)
    hard = np.array([bool(a.get("difficult", a.get("iscrowd", 0))) for a in truth["annotations"]], dtype=bool)
    score = np.array([d["score"] for d in detections], dtype=np.float64)
    result: dict[str, tuple[float | None, float | None]] = {}
    for category in truth["categories"]:
        own = objects.of(category["id"])
        own = own[np.argsort(objects.image[own], kind="stable")]
        positives = int((~hard[own]).sum())
        if positives == 0:
            result[category["name"]] = (None, None)
            continue
        ranked = found.of(category["id"])
        ranked = ranked[np.argsort(-score[ranked], kind="stable")]  # the file's order decides ties
        best, overlap = _best(objects.image[own], objects.xywh[own], found.image[ranked], found.xywh[ranked])
        met = overlap >= iou
        counted = ~(met & hard[own][best])  # a difficult object's counts neither for nor against
        candidates = np.flatnonzero(met & counted)
        hit = np.zeros(len(ranked), dtype=bool)
        hit[candidates[np.unique(best[candidates], return_index=True)[1]]] = True  # an object's first
        hits, judged = np.cumsum(hit), np.cumsum(counted)
        recall, precision = hits / positives, hits / np.maximum(judged, 1)
        result[category["name"]] = (eleven_point(recall, precision), area_under(recall, precision))
    return result


class _Boxes:
    """Columns of COCO-form boxes: class, xywh, and the image's number, -1 where it is no image of the set."""

    def __init__(self, rows: Sequence[dict[str, Any]], number: dict[Any, int]) -> None:
        self.image = np.array([number.get(row["image_id"], -1) for row in rows], dtype=np.int64)
        self.category = np.array([row["category_id"] for row in rows], dtype=np.int64)
        self.xywh = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)

    def of(self, category: int) -> NDArray[np.int64]:
        """Positions of a class's boxes."""
        return np.flatnonzero((self.category == category) & (self.image >= 0))


def eleven_point(recall: Array, precision: Array) -> float:
    """Mean over recalls 0, 0.1 .. 1 of the best precision at that recall or beyond (VOC 2007).

    The recalls are k * 0.1 in floating point, as in the kit's Python ports (py-faster-rcnn, detectron2): 6 * 0.1 is a
    little more than 0.6, so a recall of exactly 9/15 does not reach it. Published numbers rest on this.
    """
    return float(np.mean([precision[recall >= k * 0.1].max(initial=0.0) for k in range(11)]))


def area_under(recall: Array, precision: Array) -> float:
    """Area under the precision made monotonous (VOC 2010 and later)."""
    if len(recall) == 0:
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _best(
    object_image: NDArray[np.int64], objects: Array, image: NDArray[np.int64], boxes: Array
) -> tuple[NDArray[np.int64], Array]:
    """For each box the object of its image that it overlaps most, the first of several, and their IoU; object 0 and an IoU
    of -1 where the image has none. Objects are sorted by image."""
    begin = np.searchsorted(object_image, image)
    count = np.searchsorted(object_image, image, side="right") - begin
    best, overlap = np.zeros(len(boxes), dtype=np.int64), np.full(len(boxes), -1.0)
    for k in range(count.max(initial=0)):
        rows = np.flatnonzero(count > k)
        candidate = begin[rows] + k
        value = _iou(objects[candidate], boxes[rows])
        better = value > overlap[rows]
        best[rows[better]], overlap[rows[better]] = candidate[better], value[better]
    return best, overlap


def _iou(a: Array, b: Array) -> Array:
    """IoU of xywh boxes [n, 4], pair by pair."""
    low = np.maximum(a[:, :2], b[:, :2])
    size = np.clip(np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - low, 0, None)
    overlap = size.prod(axis=1)
    union = a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
