"""The numbers of a report, as JSON types: what --json writes, and what the page shows."""

from importlib.metadata import version
from typing import Any

import numpy as np

from detection.analysis.confusion import confusion_matrix, top_confusions
from detection.analysis.curves import precision_at_recalls
from detection.analysis.errors import KINDS, error_stack
from detection.analysis.matching import mean
from detection.evaluation.report import Report
from detection.report.analysis import Analysis

PRECISIONS = (0.5, 0.8, 0.9, 0.95, 0.99)
RECALLS = (0.5, 0.7, 0.8, 0.9, 0.95)


def evaluator(name: str) -> str:
    """Return the name and version of what computes COCO's metrics."""
    return f"{name} {version(name)}"


def counts(analysis: Analysis) -> dict[str, int]:
    """Return how many images, objects and detections there are."""
    scene = analysis.scene
    with_objects = np.zeros(len(scene.image_ids), dtype=bool)
    with_objects[scene.object_image] = True
    return {
        "images": len(scene.image_ids),
        "images_without_objects": int((~with_objects).sum()),
        "classes": len(scene.classes),
        "objects": int(scene.counted.sum()),
        "ignored_objects": int(scene.object_ignored.sum()),
        "detections": len(scene.score) + scene.dropped,
        "detections_beyond_limit": scene.dropped,
    }


def metrics(report: Report, intervals: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Return each metric with its interval, or why it is undefined."""
    return [
        {"name": name, "value": value, "low": low, "high": high, "reason": report.reasons.get(name)}
        for name, value in report.metrics.items()
        for low, high in [intervals.get(name, (None, None))]
    ]


def classes(analysis: Analysis, report: Report) -> list[dict[str, Any]]:
    """Return a row for each class: AP, recall, counts at its own threshold of the best F1."""
    scene, matches = analysis.scene, analysis.matches
    rows = []
    totals = np.bincount(scene.label, minlength=len(scene.classes))
    found = np.stack([np.bincount(scene.label[tp], minlength=len(scene.classes)) for tp in matches.true_positive])
    objects = scene.object_count
    for k, name in enumerate(scene.classes):
        curve, best = analysis.curves[k], analysis.curves[k].best_f1()
        at = 0 if best is None else int(np.searchsorted(-curve.threshold, -best[1]))
        row: dict[str, Any] = {
            "class": name,
            "objects": int(objects[k]),
            "detections": int(totals[k]),
            "AP": _number(analysis.ap[:, k].mean()),
            "AP50": _number(analysis.ap[0, k]),
            "AP75": _number(analysis.ap[5, k]),
            "AR": float((found[:, k] / objects[k]).mean()) if objects[k] else None,
            "best_F1": None if best is None else best[0],
            "threshold": None if best is None else best[1],
            "TP": 0 if best is None else int(curve.true[at]),
            "FP": 0 if best is None else int(curve.false[at]),
        }
        row["FN"] = row["objects"] - row["TP"]
        row |= {key: value for key, value in report.per_class.get(name, {}).items() if key != "AP"}
        rows.append(row)
    return rows


def thresholds(analysis: Analysis) -> dict[str, Any]:
    """Return thresholds of the score for the best F1, and for given precisions and recalls, over all classes."""
    curve, best = analysis.curve, analysis.curve.best_f1()
    return {
        "best_F1": None if best is None else {"F1": best[0], "threshold": best[1]},
        "precision": {f"{p:g}": curve.for_precision(p) for p in PRECISIONS},
        "recall": {f"{r:g}": curve.for_recall(r) for r in RECALLS},
    }


def curves(analysis: Analysis) -> dict[str, Any]:
    """Return precision at recalls 0, 0.01 .. 1, at IoU 0.5, and the scores where it is reached, of each class."""
    precision, score = precision_at_recalls(analysis.scene, analysis.matches)
    used = analysis.scene.object_count > 0
    average = precision[used].mean(axis=0) if used.any() else np.zeros(101)
    others = {}
    for t, iou in ((5, "0.75"), (9, "0.95")):
        values = precision_at_recalls(analysis.scene, analysis.matches, t)[0]
        others[iou] = _rounded(values[used].mean(axis=0) if used.any() else np.zeros(101))
    return {
        "precision": [_rounded(row) for row in precision],
        "score": [[None if np.isnan(v) else round(v, 4) for v in row.tolist()] for row in score],
        "mean": {"0.5": _rounded(average), **others},
    }


def confusion(analysis: Analysis) -> dict[str, Any]:
    """Return the matrix at the threshold of the best F1, and the most frequent confusions."""
    matrix = confusion_matrix(analysis.scene, analysis.confusion, analysis.threshold)
    return {
        "threshold": analysis.threshold,
        "matrix": matrix.tolist(),
        "top": [{"object": a, "detection": b, "count": n} for a, b, n in top_confusions(analysis.scene, matrix)],
    }


def errors(analysis: Analysis) -> dict[str, Any]:
    """Return what TIDE's kinds of errors cost, and COCO's stack of errors."""
    costs = analysis.costs
    names, stack = error_stack(analysis.scene, analysis.pairs)
    return {
        "base": costs.base,
        "cost": costs.kinds,
        "count": costs.counts,
        "per_class": {
            name: {kind: _number(v) for kind, v in zip((*KINDS, "FP", "FN"), column, strict=True)}
            for name, column in zip(analysis.scene.classes, costs.per_class.T.tolist(), strict=True)
        },
        "per_size": costs.per_size,
        "stack": {name: mean(row) for name, row in zip(names, stack, strict=True)},
        "stack_curves": [_rounded(row) for row in stack],
    }


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _rounded(values: Any) -> list[float]:
    return [round(v, 4) for v in values.tolist()]
