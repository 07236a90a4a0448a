"""The detections and objects of a report's page, packed: with them it answers for any threshold."""

from typing import Any

import numpy as np

from detection.analysis.matching import MISSED
from detection.analysis.scene import Floats, Ints
from detection.pages.page import packed
from detection.report.analysis import Analysis

LEVELS = 10000  # of scores
MAX_DETECTIONS = 500_000  # in a page, those with the highest scores


def score_levels(score: Floats, low: float, high: float) -> Ints:
    """Return scores as whole numbers 0..LEVELS, rounded down: a score is at least k / LEVELS exactly if its level is at
    least k."""
    return np.clip(np.floor((score - low) / (high - low) * LEVELS + 1e-7), 0, LEVELS).astype(np.int64)


def score_range(score: Floats) -> tuple[float, float]:
    """Return the range that levels divide: 0..1, or wider where scores are no fractions."""
    if not len(score):
        return 0.0, 1.0
    low, high = float(score.min()), float(score.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-9))


def page_arrays(analysis: Analysis) -> dict[str, Any]:
    """Return columns of detections and objects.

    Detections: image, label, level of the score, state (0 false, 1 true positive, 2 ignored, at IoU 0.5), row of the
    confusion matrix (K the background, K + 1 ignored), kind of error. Objects: image, label, ignored, and for both
    matchings the level + 1 of the detection that finds it, 0 where none does, and that one's label.
    """
    scene, matches = analysis.scene, analysis.matches
    background = len(scene.classes)
    low, high = score_range(scene.score)
    level = score_levels(scene.score, low, high)
    state = np.where(matches.ignored[0], 2, matches.true_positive[0].astype(np.int64))
    row = np.full(len(level), background, dtype=np.int64)
    of = analysis.confusion.of_detection
    row[of != MISSED] = scene.object_label[of[of != MISSED]]
    row[analysis.confusion.ignored] = background + 1
    keep = np.arange(len(level))
    if len(level) > MAX_DETECTIONS:
        keep = np.sort(np.argsort(-scene.score, kind="stable")[:MAX_DETECTIONS])
    labels = "u1" if background < 250 else "u2"
    images = "u2" if len(scene.image_ids) < 65536 else "u4"

    def found(by: Ints) -> Ints:
        result = np.zeros(len(by), dtype=np.int64)
        result[by != MISSED] = level[by[by != MISSED]] + 1
        return result

    by_any = analysis.confusion.of_object
    found_label = np.full(len(by_any), background, dtype=np.int64)
    found_label[by_any != MISSED] = scene.label[by_any[by_any != MISSED]]
    return {
        "low": low,
        "high": high,
        "levels": LEVELS,
        "left_out": len(level) - len(keep),
        "detections": {
            "image": packed(scene.image[keep], images),
            "label": packed(scene.label[keep], labels),
            "level": packed(level[keep], "u2"),
            "state": packed(state[keep], "u1"),
            "row": packed(row[keep], labels),
            "kind": packed(analysis.errors.kind[keep], "u1"),
        },
        "objects": {
            "image": packed(scene.object_image, images),
            "label": packed(scene.object_label, labels),
            "ignored": packed(scene.object_ignored, "u1"),
            "found": packed(found(matches.of_object[0]), "u2"),
            "found_any": packed(found(by_any), "u2"),
            "found_label": packed(found_label, labels),
            "area": packed(scene.object_area, "f4"),
        },
    }
