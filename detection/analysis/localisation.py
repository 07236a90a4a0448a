"""How well the boxes of found objects fit, and whether they lean to a side."""

from dataclasses import dataclass

import numpy as np

from detection.analysis.matching import Matches
from detection.analysis.scene import Floats, Ints, Scene, pair_overlap


@dataclass(frozen=True)
class Offsets:
    """The boxes of n true positives beside their objects'.

    Attributes:
        object: int64 [n].
        iou: float64 [n].
        shift: float64 [n, 4]: dx, dy (of the centre, in the object's width and height, positive to the right and down), dw
            and dh (in the same, positive where the box is too large).
    """

    object: Ints
    iou: Floats
    shift: Floats


def offsets(scene: Scene, matches: Matches, iou: int = 0) -> Offsets:
    """Return the offsets of the true positives; objects without area are left out."""
    found = np.flatnonzero(matches.true_positive[iou])
    other = matches.of_detection[iou][found]
    size = scene.object_box[other, 2:] - scene.object_box[other, :2]
    keep = (size > 0).all(axis=1)
    found, other, size = found[keep], other[keep], size[keep]
    box, truth = scene.box[found], scene.object_box[other]
    overlap = pair_overlap(box, truth)
    union = scene.extent[found] + scene.object_extent[other] - overlap
    centre = (box[:, :2] + box[:, 2:] - truth[:, :2] - truth[:, 2:]) / 2 / size
    growth = (box[:, 2:] - box[:, :2]) / size - 1
    return Offsets(other, overlap / union, np.concatenate((centre, growth), axis=1))


def bias(values: Floats) -> list[tuple[float, float, float]]:
    """Return median, first and third quartile of each column of offsets [n, 4]; empty without rows."""
    if not len(values):
        return []
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    return list(zip(median.tolist(), low.tolist(), high.tolist(), strict=True))


def iou_histogram(iou: Floats, bins: int = 10) -> Ints:
    """Return how many true positives have an IoU in each of ``bins`` from 0.5 to 1."""
    index = np.clip(((iou - 0.5) * 2 * bins).astype(np.int64), 0, bins - 1)
    return np.bincount(index, minlength=bins)
