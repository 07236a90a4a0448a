"""Are scores probabilities? Reliability by bins of the score, and the expected calibration error (Guo et al., 2017)."""

from dataclasses import dataclass

import numpy as np

from detection.analysis.matching import Matches
from detection.analysis.scene import Floats, Ints, Scene


@dataclass(frozen=True)
class Calibration:
    """Bins of equal width of the score, 0..1.

    Attributes:
        edges: float64 [B + 1].
        count: int64 [B], detections that are true or false.
        score: float64 [B], their mean score; NaN in empty bins.
        precision: float64 [B], the fraction that is correct; NaN in empty bins.
        ece: mean difference of both, weighted by count; None without detections.
        worst: the largest difference; None without detections.
    """

    edges: Floats
    count: Ints
    score: Floats
    precision: Floats
    ece: float | None
    worst: float | None


def calibration(scene: Scene, matches: Matches, bins: int = 10, iou: int = 0, label: int | None = None) -> Calibration:
    """Return the calibration of all detections, or of a class; the last bin has its upper edge, scores beyond 0..1 go to the
    bins at the ends."""
    counted = ~matches.ignored[iou]
    if label is not None:
        counted &= scene.label == label
    score, true = scene.score[counted], matches.true_positive[iou][counted]
    index = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_score = np.bincount(index, score, minlength=bins) / count
        precision = np.bincount(index, true.astype(np.float64), minlength=bins) / count
    gap = np.abs(mean_score - precision)[count > 0]
    ece = float((gap * count[count > 0]).sum() / count.sum()) if len(gap) else None
    return Calibration(
        np.linspace(0, 1, bins + 1), count, mean_score, precision, ece, float(gap.max()) if len(gap) else None
    )


def score_histogram(scene: Scene, matches: Matches, bins: int = 20, iou: int = 0) -> tuple[Ints, Ints]:
    """Return how many true and false positives each bin of the score has, int64 [bins] each."""
    index = np.clip((scene.score * bins).astype(np.int64), 0, bins - 1)
    true = np.bincount(index[matches.true_positive[iou]], minlength=bins)
    false = np.bincount(index[matches.false_positive[iou]], minlength=bins)
    return true, false
