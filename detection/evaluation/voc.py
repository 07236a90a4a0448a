"""PASCAL VOC's average precision at one IoU, as its development kit has it: the 11-point one of 2007 and the area under
the curve of 2010 and later. COCO's matching gives other numbers: there a detection takes the best object still free."""

from collections import defaultdict
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
    boxes: dict[tuple[Any, Any], list[list[float]]] = defaultdict(list)
    hard: dict[tuple[Any, Any], list[bool]] = defaultdict(list)
    for a in truth["annotations"]:
        boxes[a["category_id"], a["image_id"]].append(a["bbox"])
        hard[a["category_id"], a["image_id"]].append(bool(a.get("difficult", a.get("iscrowd", 0))))
    images = {image["id"] for image in truth["images"]}
    found = defaultdict(list)
    for d in detections:
        if d["image_id"] in images:
            found[d["category_id"]].append(d)
    result: dict[str, tuple[float | None, float | None]] = {}
    for category in truth["categories"]:
        c = category["id"]
        objects = {
            image: (np.array(b, dtype=np.float64), np.array(hard[k, image]))
            for (k, image), b in boxes.items()
            if k == c
        }
        positives = int(sum((~h).sum() for _, h in objects.values()))
        if positives == 0:
            result[category["name"]] = (None, None)
            continue
        hit, miss = _judge(objects, found[c], iou)
        recall = np.cumsum(hit) / positives
        precision = np.cumsum(hit) / np.maximum(np.cumsum(hit) + np.cumsum(miss), 1)
        result[category["name"]] = (eleven_point(recall, precision), area_under(recall, precision))
    return result


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


def _judge(
    objects: dict[Any, tuple[Array, NDArray[np.bool_]]], detections: list[dict[str, Any]], iou: float
) -> tuple[Array, Array]:
    """True and false positives, 0 or 1 a detection in falling order of score; neither for a difficult object."""
    order = sorted(detections, key=lambda d: -d["score"])  # stable: the file's order decides ties
    hit, miss = np.zeros(len(order)), np.zeros(len(order))
    taken = {image: np.zeros(len(h), dtype=bool) for image, (_, h) in objects.items()}
    for i, d in enumerate(order):
        image = d["image_id"]
        if image not in objects:
            miss[i] = 1
            continue
        boxes, difficult = objects[image]
        overlap = _iou(boxes, np.array(d["bbox"], dtype=np.float64))
        best = int(overlap.argmax())
        if overlap[best] < iou:
            miss[i] = 1
        elif not difficult[best]:
            hit[i], miss[i] = not taken[image][best], taken[image][best]
            taken[image][best] = True
    return hit, miss


def _iou(boxes: Array, box: Array) -> Array:
    """IoU of xywh boxes [n, 4] with one box [4]."""
    low = np.maximum(boxes[:, :2], box[:2])
    size = np.clip(np.minimum(boxes[:, :2] + boxes[:, 2:], box[:2] + box[2:]) - low, 0, None)
    overlap = size.prod(axis=1)
    union = boxes[:, 2:].prod(axis=1) + box[2:].prod() - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
