"""Two detectors on the same images: which is better, and by how much more than chance."""

from dataclasses import dataclass

import numpy as np

from detection.analysis.bootstrap import WeightedAP, bootstrap_weights, interval, summary
from detection.analysis.matching import Matches
from detection.analysis.scene import Floats, Scene


@dataclass(frozen=True)
class Difference:
    """What the second detector has more than the first.

    Attributes:
        value: of the difference.
        low, high: its 95 % interval over images, paired; None where undefined.
        share: of the replicates in which the second is better.
    """

    value: float
    low: float | None
    high: float | None
    share: float


def compare(
    first: tuple[Scene, Matches], second: tuple[Scene, Matches], replicates: int = 200, seed: int = 0
) -> tuple[dict[str, Difference], Floats]:
    """Return the differences of COCO's metrics with paired bootstrap intervals, and those of AP by class, float64 [K].

    Args:
        first, second: scenes of the same images and classes, in the same order, and COCO's matches.
        replicates: of the bootstrap; both detectors see the same images in each.
        seed: of the draws.

    Raises:
        ValueError: other images or classes; says what differs.
    """
    (a, _), (b, _) = first, second
    if a.image_ids != b.image_ids:
        raise ValueError(f"the two were evaluated on other images: {len(a.image_ids)} and {len(b.image_ids)}")
    if a.classes != b.classes:
        raise ValueError(f"the two have other classes: {', '.join(a.classes)} and {', '.join(b.classes)}")
    weighted = [WeightedAP(*first), WeightedAP(*second)]
    ones = np.ones(len(a.image_ids))
    values = [w(ones) for w in weighted]
    rows = []
    for weights in bootstrap_weights(len(ones), replicates, seed):
        x, y = (summary(*w(weights)) for w in weighted)
        rows.append([y[name] - x[name] for name in x])
    drawn = np.array(rows)
    x, y = (summary(*v) for v in values)
    result = {}
    for i, name in enumerate(x):
        low, high = interval(drawn[:, i], y[name] - x[name]) or (None, None)
        result[name] = Difference(y[name] - x[name], low, high, float((drawn[:, i] > 0).mean()))
    return result, (values[1][0] - values[0][0]).mean(axis=0)


def image_f1(scene: Scene, matches: Matches, threshold: float, iou: int = 0) -> Floats:
    """Return each image's F1 at a threshold of the score, float64 [N]; 1 without objects and without detections."""
    shown = scene.score >= threshold
    images = len(scene.image_ids)
    tp = np.bincount(scene.image[shown & matches.true_positive[iou]], minlength=images)
    fp = np.bincount(scene.image[shown & matches.false_positive[iou]], minlength=images)
    objects = np.bincount(scene.object_image[scene.counted], minlength=images)
    total = tp + fp + objects
    return np.divide(2.0 * tp, total, out=np.ones(images), where=total > 0)
