"""COCO's twelve box metrics, computed by hotcoco or by pycocotools, which tests hold together."""

import contextlib
import gc
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

EvaluatorName = Literal["hotcoco", "pycocotools"]
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
MAX_DETECTIONS = 100  # COCO's, of an image
_ALL_IOUS = slice(None)
_PRECISIONS = ((_ALL_IOUS, 0), (0, 0), (5, 0), (_ALL_IOUS, 1), (_ALL_IOUS, 2), (_ALL_IOUS, 3))  # IoU, area of AP to APl
_threads: dict[str, int] = {}  # the process that has hotcoco's
_AREA_RANGES = {"s": "small (under 32² pixels)", "m": "medium (32² to 96²)", "l": "large (over 96²)"}


def coco_metrics(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    max_detections: int = MAX_DETECTIONS,
    beside: Sequence[int] = (),
    evaluator: EvaluatorName = "hotcoco",
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return COCO's AP and AR metrics over IoU 0.5 to 0.95, fractions 0..1.

    Args:
        ground_truth: COCO annotations; ids may be any numbers or texts.
        detections: COCO results: image_id, category_id, bbox [x, y, w, h], score.
        max_detections: of a class in an image, those with the best scores count for AP and AR; at least 10.
        beside: further such numbers, for which the metrics are added as "AP@N" and "ARN".
        evaluator: hotcoco, or pycocotools, some forty times slower; the numbers are the same.

    Returns:
        The twelve metrics by name (AR100 is named after ``max_detections``), and AP by class name. None where there is no
        ground truth; 0 where there is and nothing was detected.
    """
    counts = sorted({1, 10, max_detections, *beside})
    columns = _Columns(ground_truth, detections)
    run = _run_pycocotools if evaluator == "pycocotools" or _without_threads() else _run_hotcoco
    # [IoU, recall, class, area, number of detections] and the same without the second
    precision, recall = run(columns, counts)
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
    per_class = {name: _mean(precision[:, :, k]) for k, name in enumerate(columns.names)}
    return metrics, per_class


def _without_threads() -> bool:
    """Return whether this process was forked from one in which hotcoco has run: its threads stayed there, and a call would
    wait for them forever."""
    _threads.setdefault("process", os.getpid())
    return _threads["process"] != os.getpid()


class _Columns:
    """Annotations and results as columns, with images and classes numbered from 1 in the order of their ids.

    Both evaluators want integers, and VOC's ids are texts. The order is kept, since it breaks ties of scores. Results on
    other images or of other classes are left out.

    Attributes:
        images: N, how many there are.
        names: K class names.
        objects, results: columns of both, each row an object or a result.
    """

    def __init__(self, ground_truth: dict[str, Any], detections: list[dict[str, Any]]) -> None:
        image_of = _numbers(image["id"] for image in ground_truth["images"])
        class_of = _numbers(category["id"] for category in ground_truth["categories"])
        names = {c["id"]: c["name"] for c in ground_truth["categories"]}
        self.images, self.names = len(image_of), [names[c] for c in class_of]
        annotations = ground_truth["annotations"]
        self.object_image = np.array([image_of[a["image_id"]] for a in annotations], dtype=np.int64)
        self.object_class = np.array([class_of[a["category_id"]] for a in annotations], dtype=np.int64)
        self.object_box = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
        self.object_area = np.array([a["area"] for a in annotations], dtype=np.float64)
        self.object_crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        known = [d for d in detections if d["image_id"] in image_of and d["category_id"] in class_of]
        self.image = np.array([image_of[d["image_id"]] for d in known], dtype=np.int64)
        self.label = np.array([class_of[d["category_id"]] for d in known], dtype=np.int64)
        self.box = np.array([d["bbox"] for d in known], dtype=np.float64).reshape(-1, 4)
        self.score = np.array([d["score"] for d in known], dtype=np.float64)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the lists of images and categories in COCO's format."""
        return {
            "images": [{"id": i, "width": 1, "height": 1, "file_name": ""} for i in range(1, self.images + 1)],
            # numbers in place of names, which may be no Unicode (half a surrogate pair)
            "categories": [{"id": k, "name": str(k)} for k in range(1, len(self.names) + 1)],
        }


def _numbers(ids: Any) -> dict[Any, int]:
    """Return the numbers 1..n of ids by their order, numbers before texts."""
    return {key: i for i, key in enumerate(sorted(ids, key=lambda i: (isinstance(i, str), i)), 1)}


def _run_hotcoco(columns: _Columns, counts: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision [10, 101, K, 4, counts] and recall [10, K, 4, counts], -1 where there is no ground truth."""
    tables: dict[str, Any] = columns.tables()
    coco_gt = hotcoco.COCO.from_arrays(
        **tables,
        image_ids=columns.object_image,
        category_ids=columns.object_class,
        boxes=columns.object_box,
        area=columns.object_area,
        iscrowd=columns.object_crowd,
    )
    results = np.column_stack((columns.image, columns.box, columns.score, columns.label))
    coco_dt = coco_gt.load_res(np.ascontiguousarray(results, dtype=np.float64))
    coco_eval = hotcoco.COCOeval(coco_gt, coco_dt, "bbox")
    coco_eval.params.max_dets = counts
    coco_eval.evaluate()
    coco_eval.accumulate()
    result: dict[str, Any] = coco_eval.eval or {}
    return result["precision"], result["recall"]


def _run_pycocotools(columns: _Columns, counts: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the same as :func:`_run_hotcoco`."""
    tables = columns.tables()
    objects = [
        {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, (image, label, box, area, crowd) in enumerate(
            zip(
                columns.object_image.tolist(),
                columns.object_class.tolist(),
                columns.object_box.tolist(),
                columns.object_area.tolist(),
                columns.object_crowd.tolist(),
                strict=True,
            ),
            1,  # an id of 0 would count as unmatched
        )
    ]
    # the fields that COCO.loadRes adds, without a segmentation per box
    results = [
        {"id": i, "image_id": image, "category_id": label, "bbox": b, "score": score, "area": b[2] * b[3], "iscrowd": 0}
        for i, (image, label, b, score) in enumerate(
            zip(
                columns.image.tolist(),
                columns.label.tolist(),
                columns.box.tolist(),
                columns.score.tolist(),
                strict=True,
            ),
            1,
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()), _gc_disabled():
        coco_gt, coco_dt = COCO(), COCO()
        for coco, rows in ((coco_gt, objects), (coco_dt, results)):
            coco.dataset = {**tables, "annotations": rows}
            coco.createIndex()
        coco_eval = COCOeval(coco_gt, coco_dt, "bbox")
        coco_eval.params.maxDets = counts
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval.eval["precision"], coco_eval.eval["recall"]


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
