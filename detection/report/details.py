"""Further numbers of a report: intervals, parts of the data, calibration, boxes, doubtful labels, images, comparisons."""

from typing import Any

import numpy as np

from detection.analysis.bootstrap import WeightedAP, bootstrap_weights, influence, interval, summary
from detection.analysis.calibration import Calibration, calibration, score_histogram
from detection.analysis.comparison import compare, image_f1
from detection.analysis.label_errors import suspicions
from detection.analysis.localisation import bias, iou_histogram, offsets
from detection.analysis.matching import MISSED, match
from detection.analysis.scene import Scene
from detection.analysis.slices import ap_by_group, ap_by_side, attributes, image_groups, recall_by
from detection.evaluation.coco import MAX_DETECTIONS
from detection.report.analysis import Analysis

_INF = 1e9
_MANY = (
    200_000  # detections, above which some numbers are left out or drawn less often: a page takes ten seconds at most
)
EDGES = {
    "side": (0, 16, 32, 64, 96, 128, 256, _INF),
    "aspect": (0, 1 / 3, 0.5, 0.75, 4 / 3, 2, 3, _INF),
    "crowding": (0, 0.01, 0.1, 0.3, 0.5, 1.01),
    "objects": (1, 2, 4, 8, 16, 32, _INF),
    "border": (0, 0.05, 0.25, 0.5, 1, 2, _INF),
}
SIZES = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
_SUSPICIONS = 300  # listed


def replicates(scene: Scene) -> int:
    """Return how many bootstrap replicates are drawn: 200, fewer of many detections, 50 at least."""
    return int(np.clip(10_000_000 // max(len(scene.score), 1), 50, 200))


def intervals(analysis: Analysis) -> dict[str, tuple[float, float]]:
    """Return the 95 % bootstrap intervals, over images, of COCO's metrics; by size where detections are not too many."""
    scene = analysis.scene
    parts = {"": WeightedAP(scene, analysis.matches)}
    if len(scene.score) <= _MANY:
        for size, (low, high) in SIZES.items():
            inside = (scene.object_area >= low) & (scene.object_area <= high)
            ignored = scene.object_ignored | ~inside
            in_range = (scene.extent >= low) & (scene.extent <= high)
            matches = match(scene, analysis.pairs, ignored=ignored, in_range=in_range)
            parts[size] = WeightedAP(scene, matches, ~ignored)
    drawn: dict[str, list[float]] = {}
    for weights in bootstrap_weights(len(scene.image_ids), replicates(scene)):
        for size, part in parts.items():
            values = summary(*part(weights))
            names = values if not size else {f"AP{size}": values["AP"], f"AR{size}": values["AR100"]}
            for name, value in (values if not size else names).items():
                drawn.setdefault(name, []).append(value)
    ones = np.ones(len(scene.image_ids))
    whole = {size: summary(*part(ones)) for size, part in parts.items()}
    estimates = dict(whole[""])
    for size in SIZES:
        if size in whole:
            estimates |= {f"AP{size}": whole[size]["AP"], f"AR{size}": whole[size]["AR100"]}
    result = {name: interval(np.array(values), estimates[name]) for name, values in drawn.items()}
    return {name: value for name, value in result.items() if value is not None}


def bins(analysis: Analysis) -> dict[str, Any]:
    """Return recall by attributes of the objects, AP50 by their size, and what became of ignored objects."""
    scene = analysis.scene
    values = attributes(scene)
    aps = ap_by_side(scene, analysis.pairs, EDGES["side"]) if len(scene.score) <= _MANY else None
    result: dict[str, Any] = {}
    for name, edges in EDGES.items():
        rows = recall_by(scene, analysis.matches, values[name], edges)
        result[name] = [
            {
                "low": b.low,
                "high": None if b.high == _INF else b.high,
                "objects": b.objects,
                "recall": b.recall,
                "recall75": b.recall75,
                **({"AP50": aps[i]} if name == "side" and aps is not None else {}),
            }
            for i, b in enumerate(rows)
        ]
    ignored = scene.object_ignored
    found = analysis.matches.of_object[0] != MISSED
    result["ignored"] = {"objects": int(ignored.sum()), "detected": int((found & ignored).sum())}
    return result


def calibrations(analysis: Analysis) -> dict[str, Any]:
    """Return reliability and calibration errors of all detections and of each class, and histograms of the scores."""
    scene, matches = analysis.scene, analysis.matches
    whole = calibration(scene, matches)
    true, false = score_histogram(scene, matches)
    classes = {name: calibration(scene, matches, label=k) for k, name in enumerate(scene.classes)}
    return {
        **_calibration(whole),
        "per_class": {name: {"ECE": c.ece, "detections": int(c.count.sum())} for name, c in classes.items()},
        "histogram": {"true": true.tolist(), "false": false.tolist()},
    }


def _calibration(values: Calibration) -> dict[str, Any]:
    return {
        "ECE": values.ece,
        "worst": values.worst,
        "edges": values.edges.tolist(),
        "count": values.count.tolist(),
        "score": _nullable(values.score),
        "precision": _nullable(values.precision),
    }


def boxes(analysis: Analysis) -> dict[str, Any]:
    """Return how the boxes of true positives fit: IoU histogram, and median and quartiles of dx, dy, dw and dh."""
    scene = analysis.scene
    found = offsets(scene, analysis.matches)
    label, area = scene.object_label[found.object], scene.object_area[found.object]
    sizes = {name: (area >= low) & (area < high) for name, (low, high) in SIZES.items()}
    return {
        "iou": iou_histogram(found.iou).tolist(),
        "mean_iou": float(found.iou.mean()) if len(found.iou) else None,
        "count": len(found.iou),
        "all": bias(found.shift),
        "by_size": {name: {"count": int(m.sum()), "bias": bias(found.shift[m])} for name, m in sizes.items()},
        "by_class": {
            name: {"count": int((label == k).sum()), "bias": bias(found.shift[label == k])}
            for k, name in enumerate(scene.classes)
        },
    }


def doubtful_labels(analysis: Analysis, threshold: float = 0.5) -> dict[str, Any]:
    """Return annotations that are probably wrong, by decreasing score of the detection that says so."""
    scene = analysis.scene
    found = suspicions(scene, analysis.pairs, analysis.matches, threshold)
    rows = []
    for s in found[:_SUSPICIONS]:
        x1, y1, x2, y2 = scene.box[s.detection].tolist()
        row = {
            "kind": s.kind,
            "image": int(scene.image[s.detection]),
            "image_id": scene.image_ids[scene.image[s.detection]],
            "file": scene.files[scene.image[s.detection]],
            "class": scene.classes[scene.label[s.detection]],
            "category_id": scene.category_ids[scene.label[s.detection]],
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(s.score, 4),
            "annotation": None,
            "annotated_class": None,
            "iou": round(s.iou, 3),
        }
        if s.object != MISSED:
            row["annotation"] = scene.object_id[s.object]
            row["annotated_class"] = scene.classes[scene.object_label[s.object]]
        rows.append(row)
    kinds = [s.kind for s in found]
    return {
        "threshold": threshold,
        "count": {kind: kinds.count(kind) for kind in ("missing", "wrong class", "badly placed")},
        "rows": rows,
    }


def slices(analysis: Analysis, fields: list[str]) -> dict[str, Any]:
    """Return COCO's metrics of groups of images for each field.

    Raises:
        ValueError: no image has the field.
    """
    result = {}
    for field in fields:
        groups = image_groups(analysis.scene, field)
        rows = ap_by_group(analysis.scene, analysis.matches, groups)
        result[field] = [{"value": name, **{k: _number(v) for k, v in row.items()}} for name, row in rows.items()]
    return result


def images(analysis: Analysis) -> dict[str, Any]:
    """Return for each image what AP50 would gain without it (to first order) and its F1 at the best threshold."""
    lost = influence(analysis.scene, analysis.matches)
    f1 = image_f1(analysis.scene, analysis.matches, analysis.threshold)
    return {"lost": [round(v, 6) for v in lost.tolist()], "f1": [round(v, 4) for v in f1.tolist()]}


def comparison(first: Analysis, second: Analysis, name: str) -> dict[str, Any]:
    """Return what the first detector has more than the second: metrics with paired intervals, classes, images.

    Raises:
        ValueError: they were evaluated on other images or classes.
    """
    differences, per_class = compare(
        (second.scene, second.matches), (first.scene, first.matches), replicates(first.scene)
    )
    f1 = [image_f1(a.scene, a.matches, a.threshold) for a in (first, second)]
    change = f1[0] - f1[1]
    order = np.argsort(-np.abs(change), kind="stable")
    order = order[change[order] != 0][:200]
    return {
        "name": name,
        "metrics": {
            key: {"difference": d.value, "low": d.low, "high": d.high, "share_better": d.share}
            for key, d in differences.items()
        },
        "classes": {k: _number(v) for k, v in zip(first.scene.classes, per_class.tolist(), strict=True)},
        "errors": {k: _difference(v, second.costs.kinds[k]) for k, v in first.costs.kinds.items()},
        "won": int((change > 0).sum()),
        "lost": int((change < 0).sum()),
        "equal": int((change == 0).sum()),
        "images": [
            {"image": i, "file": first.scene.files[i], "F1": f1[0][i], "other": f1[1][i], "difference": change[i]}
            for i in order.tolist()
        ],
    }


def incomparable(limit: int) -> list[str]:
    """Return which settings make AP incomparable with published numbers."""
    if limit == MAX_DETECTIONS:
        return []
    return [f"AP counts the best {limit} detections of a class in an image; COCO's counts {MAX_DETECTIONS}"]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _nullable(values: Any) -> list[float | None]:
    return [_number(v) for v in values.tolist()]
