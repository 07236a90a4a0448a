"""COCO's twelve numbers for boxes, through faster-coco-eval; pycocotools gives the same (tests hold them together)."""

import contextlib
import gc
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_SIZES = {"s": "small (under 32² pixels)", "m": "medium (32² to 96²)", "l": "large (over 96²)"}


def coco_metrics(
    truth: dict[str, Any], detections: list[dict[str, Any]]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """AP and its kin over IoU 0.5 to 0.95, fractions 0..1.

    Args:
        truth: COCO annotations; their ids must not be 0 (``Records.to_coco`` and ``read_truth`` see to it).
        detections: COCO results: image_id, category_id, bbox [x, y, w, h], score.

    Returns:
        The twelve numbers by name, and AP per class by name. None where there is no ground truth to find; 0 where there
        is and nothing was found.
    """
    # in the ids' order, by which the metric breaks ties of score
    order = sorted((image["id"] for image in truth["images"]), key=lambda i: (isinstance(i, str), i))
    number = {image: i for i, image in enumerate(order, 1)}
    renumbered = {
        "images": [{**image, "id": number[image["id"]]} for image in truth["images"]],
        "annotations": [{**a, "image_id": number[a["image_id"]]} for a in truth["annotations"]],
        "categories": truth["categories"],
    }
    known = (d for d in detections if d["image_id"] in number)
    # what loadRes would add, but for an outline of every box
    results = [
        {
            "id": i,
            "image_id": number[d["image_id"]],
            "category_id": d["category_id"],
            "bbox": d["bbox"],
            "score": d["score"],
            "area": d["bbox"][2] * d["bbox"][3],
            "iscrowd": 0,
        }
        for i, d in enumerate(known, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()), _no_garbage_collection():
        gt = COCO(renumbered)  # takes integer image ids alone, and VOC's are strings
        dt = COCO({**renumbered, "annotations": results})
        run = COCOeval_faster(gt, dt, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class] over all sizes, 100 detections
    names = {c["id"]: c["name"] for c in truth["categories"]}
    per_class = {names[c]: _mean(precision[:, :, k]) for k, c in enumerate(run.params.catIds)}
    return {name: _defined(value) for name, value in zip(NAMES, run.stats[:12], strict=True)}, per_class


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A million dictionaries would be gone through again and again for cycles that are not there."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def undefined_reasons(metrics: dict[str, float | None]) -> dict[str, str]:
    """Why each number that is None has no value."""
    return {
        name: f"no ground truth of size {_SIZES[name[-1]]}" if name[-1] in _SIZES else "no ground truth"
        for name, value in metrics.items()
        if value is None
    }


def _defined(value: float) -> float | None:
    return None if value < 0 else float(value)


def _mean(precision: Any) -> float | None:
    valid = precision[precision > -1]
    return float(np.mean(valid)) if valid.size else None
