"""Precision, recall and F1 at thresholds of the score, and thresholds for what one wants of them."""

from dataclasses import dataclass

import numpy as np

from detection.analysis.matching import Matches, by_score, class_bounds, interpolated
from detection.analysis.scene import Bools, Floats, Ints, Scene


@dataclass(frozen=True)
class Curve:
    """Precision and recall of a class, or of all, as the threshold decreases.

    Attributes:
        threshold: float64 [n], decreasing: the distinct scores; all detections of a score are in or out together.
        true, false: int64 [n], detections with at least that score.
        objects: how many there are to find.
    """

    threshold: Floats
    true: Ints
    false: Ints
    objects: int

    @property
    def precision(self) -> Floats:
        """Fraction of the detections that are correct, float64 [n]."""
        return self.true / np.maximum(self.true + self.false, 1)

    @property
    def recall(self) -> Floats:
        """Fraction of the objects that are found, float64 [n]; 0 without objects."""
        return self.true / max(self.objects, 1)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of both, float64 [n]."""
        return 2 * self.true / np.maximum(self.true + self.false + self.objects, 1)

    def best_f1(self) -> tuple[float, float] | None:
        """Return the highest F1 and its threshold, the highest of several; None without detections or objects."""
        if not len(self.threshold) or not self.objects:
            return None
        i = int(np.argmax(self.f1))
        return float(self.f1[i]), float(self.threshold[i])

    def for_precision(self, least: float) -> float | None:
        """Return the lowest threshold with a precision of at least ``least``: of those the recall is highest there."""
        reached = np.flatnonzero(self.precision >= least)
        return float(self.threshold[reached[-1]]) if len(reached) else None

    def for_recall(self, least: float) -> float | None:
        """Return the highest threshold with a recall of at least ``least``; None where no threshold reaches it."""
        reached = np.flatnonzero(self.recall >= least)
        return float(self.threshold[reached[0]]) if len(reached) and self.objects else None


def curve(score: Floats, true: Bools, false: Bools, objects: int) -> Curve:
    """Return the curve of detections; those that are neither true nor false are ignored.

    Args:
        score: float64 [n], in any order.
        true, false: bool [n].
        objects: how many there are to find.
    """
    counted = true | false
    order = np.argsort(-score[counted], kind="stable")
    score, tp, fp = (
        score[counted][order],
        np.cumsum(true[counted][order], dtype=np.int64),
        np.cumsum(false[counted][order], dtype=np.int64),
    )
    ends = np.flatnonzero(np.diff(score, append=-np.inf)) if len(score) else np.zeros(0, dtype=np.int64)
    return Curve(score[ends], tp[ends], fp[ends], objects)


def class_curves(scene: Scene, matches: Matches, iou: int = 0) -> list[Curve]:
    """Return the curve of each class at one of the IoUs of ``matches``."""
    order = by_score(scene)
    bounds = class_bounds(scene, order)
    true, false, objects = matches.true_positive[iou], matches.false_positive[iou], scene.object_count
    parts = [order[bounds[k] : bounds[k + 1]] for k in range(len(scene.classes))]
    return [curve(scene.score[p], true[p], false[p], int(objects[k])) for k, p in enumerate(parts)]


def overall_curve(scene: Scene, matches: Matches, iou: int = 0) -> Curve:
    """Return the curve of all classes together."""
    true, false = matches.true_positive[iou], matches.false_positive[iou]
    return curve(scene.score, true, false, int(scene.counted.sum()))


def precision_at_recalls(scene: Scene, matches: Matches, iou: int = 0) -> tuple[Floats, Floats]:
    """Return COCO's interpolated curves at recalls 0, 0.01 .. 1: precision float64 [K, 101], and the score at which that
    precision is reached [K, 101], NaN where the recall is not."""
    order = by_score(scene)
    bounds = class_bounds(scene, order)
    true, false, objects = matches.true_positive[iou], matches.false_positive[iou], scene.object_count
    precision = np.zeros((len(scene.classes), 101))
    score = np.full((len(scene.classes), 101), np.nan)
    for k in range(len(scene.classes)):
        part = order[bounds[k] : bounds[k + 1]]
        precision[k] = interpolated(true[part], false[part], int(objects[k]))
        if not objects[k] or not len(part):
            continue
        recall = np.cumsum(true[part]) / objects[k]
        index = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        score[k, index < len(part)] = scene.score[part[index[index < len(part)]]]
    return precision, score
