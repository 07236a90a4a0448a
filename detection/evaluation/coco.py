"""COCO's twelve box metrics, computed by faster-coco-eval; tests compare them with pycocotools."""

import contextlib
import gc
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
MAX_DETECTIONS = 100  # COCO's, of an image
_ALL_IOUS = slice(None)
_PRECISIONS = ((_ALL_IOUS, 0), (0, 0), (5, 0), (_ALL_IOUS, 1), (_ALL_IOUS, 2), (_ALL_IOUS, 3))  # IoU, area of AP to APl
_AREA_RANGES = {"s": "small (under 32² pixels)", "m": "medium (32² to 96²)", "l": "large (over 96²)"}


def coco_metrics(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    max_detections: int = MAX_DETECTIONS,
    beside: Sequence[int] = (),
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return COCO's AP and AR metrics over IoU 0.5 to 0.95, fractions 0..1.

    Args:
        ground_truth: COCO annotations; no id may be 0 (``Annotations.to_coco`` and ``read_ground_truth`` ensure it).
        detections: COCO results: image_id, category_id, bbox [x, y, w, h], score.
        max_detections: of a class in an image, those with the best scores count for AP and AR; at least 10.
        beside: further such numbers, for which the metrics are added as "AP@N" and "ARN".

    Returns:
        The twelve metrics by name (AR100 is named after ``max_detections``), and AP by class name. None where there is no
        ground truth; 0 where there is and nothing was detected.
    """
    # sorted by id, since the metric breaks score ties in this order
    sorted_ids = sorted((image["id"] for image in ground_truth["images"]), key=lambda i: (isinstance(i, str), i))
    number_of = {image: i for i, image in enumerate(sorted_ids, 1)}
    renumbered = {
        "images": [{**image, "id": number_of[image["id"]]} for image in ground_truth["images"]],
        "annotations": [{**a, "image_id": number_of[a["image_id"]]} for a in ground_truth["annotations"]],
        "categories": ground_truth["categories"],
    }
    known = (d for d in detections if d["image_id"] in number_of)
    # the fields that COCO.loadRes adds, without a segmentation per box
    results = [
        {
            "id": i,
            "image_id": number_of[d["image_id"]],
            "category_id": d["category_id"],
            "bbox": d["bbox"],
            "score": d["score"],
            "area": d["bbox"][2] * d["bbox"][3],
            "iscrowd": 0,
        }
        for i, d in enumerate(known, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()), _gc_disabled():
        coco_gt = COCO(renumbered)  # requires integer image ids, and VOC's are strings
        coco_dt = COCO({**renumbered, "annotations": results})
        coco_eval = COCOeval_faster(coco_gt, coco_dt, "bbox")
        coco_eval.params.maxDets = counts = sorted({1, 10, max_detections, *beside})
        coco_eval.evaluate()
        coco_eval.accumulate()
    # [IoU, recall, class, area, number of detections] and the same without the second
    precision, recall = coco_eval.eval["precision"], coco_eval.eval["recall"]
    metrics: dict[str, float | None] = {}
    for count in dict.fromkeys((max_detections, *beside)):
        k = counts.index(count)
        values = [_mean(precision[iou, :, :, area, k]) for iou, area in _PRECISIONS]
        values += [_mean(recall[:, :, 0, counts.index(n)]) for n in (1, 10, count)]
        values += [_mean(recall[:, :, area, k]) for area in (1, 2, 3)]
        for name, value in zip(NAMES, values, strict=True):
            suffix = "" if count == max_detections else f"@{count}"
            metrics.setdefault(
                f"AR{count}" if name == "AR100" else name if name in ("AR1", "AR10") else name + suffix, value
            )
    precision = precision[:, :, :, 0, counts.index(max_detections)]
    names = {c["id"]: c["name"] for c in ground_truth["categories"]}
    per_class = {names[c]: _mean(precision[:, :, k]) for k, c in enumerate(coco_eval.params.catIds)}
    return metrics, per_class


@contextlib.contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable garbage collection: it would scan millions of dictionaries repeatedly and find no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def undefined_reasons(metrics: dict[str, float | None]) -> dict[str, str]:
    """Return for each metric that is None why it is undefined."""
    return {
        name: f"no ground truth of size {_AREA_RANGES[area]}"
        if (area := name.partition("@")[0][-1]) in _AREA_RANGES
        else "no ground truth"
        for name, value in metrics.items()
        if value is None
    }


def _mean(precision: Any) -> float | None:
    valid = precision[precision > -1]
    return float(np.mean(valid)) if valid.size else None
