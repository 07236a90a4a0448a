"""What several parts of a report need, computed once."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.analysis.confusion import Confusion, match_any_class
from detection.analysis.curves import Curve, class_curves, overall_curve
from detection.analysis.errors import Costs, Errors, tide_costs, tide_errors
from detection.analysis.matching import Matches, average_precision, match
from detection.analysis.scene import Floats, Pairs, Scene, overlapping_pairs, scene_from_coco


@dataclass(frozen=True)
class Analysis:
    """A data set's objects and detections, and how they match.

    Attributes:
        scene: the arrays.
        pairs: overlapping ones.
        matches: COCO's, at IoU 0.5, 0.55 .. 0.95.
        ap: float64 [10, K], NaN for classes without objects.
        curve: of all classes together at IoU 0.5.
        curves: of each class at IoU 0.5.
        confusion: matching over classes at IoU 0.5.
        errors, costs: TIDE's.
        threshold: the score of the best F1 over all classes, 0.5 without detections.
    """

    scene: Scene
    pairs: Pairs
    matches: Matches
    ap: Floats
    curve: Curve
    curves: list[Curve]
    confusion: Confusion
    errors: Errors
    costs: Costs
    threshold: float


def analyse(ground_truth: dict[str, Any], detections: list[dict[str, Any]], max_detections: int = 100) -> Analysis:
    """Return the analysis of COCO annotations and results; ``max_detections`` of a class in an image count."""
    scene = scene_from_coco(ground_truth, detections, max_detections)
    pairs = overlapping_pairs(scene)
    matches = match(scene, pairs)
    errors = tide_errors(scene, pairs)
    curve = overall_curve(scene, matches)
    best = curve.best_f1()
    return Analysis(
        scene=scene,
        pairs=pairs,
        matches=matches,
        ap=average_precision(scene, matches),
        curve=curve,
        curves=class_curves(scene, matches),
        confusion=match_any_class(scene, pairs),
        errors=errors,
        costs=tide_costs(scene, errors),
        threshold=0.5 if best is None or not np.isfinite(best[1]) else best[1],
    )
