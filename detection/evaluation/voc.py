"""PASCAL VOC's average precision at one IoU, as in its development kit: 11-point (VOC 2007) and area under the curve (2010
and later).

COCO's matching gives other values: there a detection is matched to the best object that is still unmatched.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def voc_ap(
    ground_truth: dict[str, Any], detections: list[dict[str, Any]], iou: float = 0.5
) -> dict[str, tuple[float | None, float | None]]:
    """Return the average precision of every class: (11-point, area under the curve).

    Args:
        ground_truth: COCO annotations with "difficult" (or "iscrowd"); difficult objects are ignored. Boxes have exclusive
            right and bottom edges: VOC's inclusive corners with 1 subtracted from xmin and ymin, so that widths are VOC's
            xmax - xmin + 1.
        detections: COCO results.
        iou: minimum IoU of a match.

    Returns:
        None for a class without (not difficult) ground truth; 0.0 where nothing was detected.
    """
    index_of = {image["id"]: i for i, image in enumerate(ground_truth["images"])}
    gt, dt = _Boxes(ground_truth["annotations"], index_of), _Boxes(detections, index_of)
    difficult = np.array(
        [bool(a.get("difficult", a.get("iscrowd", 0))) for a in ground_truth["annotations"]], dtype=bool
    )
    score = np.array([d["score"] for d in detections], dtype=np.float64)
    result: dict[str, tuple[float | None, float | None]] = {}
    for category in ground_truth["categories"]:
        objects = gt.of_category(category["id"])
        objects = objects[np.argsort(gt.image[objects], kind="stable")]
        num_positives = int((~difficult[objects]).sum())
        if num_positives == 0:
            result[category["name"]] = (None, None)
            continue
        ranked = dt.of_category(category["id"])
        ranked = ranked[np.argsort(-score[ranked], kind="stable")]  # ties in file order
        best, best_iou = _best_match(gt.image[objects], gt.xywh[objects], dt.image[ranked], dt.xywh[ranked])
        matched = best_iou >= iou
        evaluated = ~(matched & difficult[objects][best])  # matches of difficult objects are ignored
        candidates = np.flatnonzero(matched & evaluated)
        is_tp = np.zeros(len(ranked), dtype=bool)
        # the first match of each object is a true positive, later ones are false positives
        is_tp[candidates[np.unique(best[candidates], return_index=True)[1]]] = True
        tp, num_evaluated = np.cumsum(is_tp), np.cumsum(evaluated)
        recall, precision = tp / num_positives, tp / np.maximum(num_evaluated, 1)
        result[category["name"]] = (eleven_point(recall, precision), area_under_curve(recall, precision))
    return result


class _Boxes:
    """Columns of COCO boxes: category id, xywh, and image index (-1 for an image that is not in the ground truth)."""

    def __init__(self, rows: Sequence[dict[str, Any]], index_of: dict[Any, int]) -> None:
        self.image = np.array([index_of.get(row["image_id"], -1) for row in rows], dtype=np.int64)
        self.category = np.array([row["category_id"] for row in rows], dtype=np.int64)
        self.xywh = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)

    def of_category(self, category: int) -> NDArray[np.int64]:
        """Return the indices of a category's boxes."""
        return np.flatnonzero((self.category == category) & (self.image >= 0))


def eleven_point(recall: Array, precision: Array) -> float:
    """Return the mean over recalls 0, 0.1 .. 1 of the best precision at that recall or higher (VOC 2007).

    The recalls are k * 0.1 in floating point, as in the devkit's Python ports (py-faster-rcnn, detectron2): 6 * 0.1 is
    slightly above 0.6, so that a recall of exactly 9/15 does not reach it. Published results depend on this.
    """
    return float(np.mean([precision[recall >= k * 0.1].max(initial=0.0) for k in range(11)]))


def area_under_curve(recall: Array, precision: Array) -> float:
    """Return the area under the monotonic precision envelope (VOC 2010 and later)."""
    if len(recall) == 0:
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _best_match(
    object_image: NDArray[np.int64], objects: Array, image: NDArray[np.int64], boxes: Array
) -> tuple[NDArray[np.int64], Array]:
    """Match each box to the object of its image with the highest IoU, the first of several.

    Args:
        object_image: int64 [M], image index of each object, sorted.
        objects: xywh [M, 4].
        image: int64 [N], image index of each box.
        boxes: xywh [N, 4].

    Returns:
        Index of the object int64 [N] and IoU [N]; object 0 and an IoU of -1 where the image has no objects.
    """
    start = np.searchsorted(object_image, image)
    count = np.searchsorted(object_image, image, side="right") - start
    best, best_iou = np.zeros(len(boxes), dtype=np.int64), np.full(len(boxes), -1.0)
    for k in range(count.max(initial=0)):
        rows = np.flatnonzero(count > k)
        candidate = start[rows] + k
        iou = _iou(objects[candidate], boxes[rows])
        better = iou > best_iou[rows]
        best[rows[better]], best_iou[rows[better]] = candidate[better], iou[better]
    return best, best_iou


def _iou(a: Array, b: Array) -> Array:
    """Return the IoU of each pair of rows of two arrays of xywh boxes [n, 4]."""
    low = np.maximum(a[:, :2], b[:, :2])
    size = np.clip(np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - low, 0, None)
    overlap = size.prod(axis=1)
    union = a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
