"""Do training and validation images show the same? Class shares, sizes, brightness, and images in both."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detection.analysis.scene import Floats, Ints


def shares(labels: Ints, classes: int) -> Floats:
    """Return the fraction of objects of each class, float64 [K]; zeros without objects. Labels are 0..K-1."""
    count = np.bincount(labels, minlength=classes)
    return count / max(int(count.sum()), 1)


def total_variation(a: Floats, b: Floats) -> float:
    """Return half the sum of the differences of two distributions: 0 where they are equal, 1 where they share nothing."""
    return float(np.abs(a - b).sum() / 2)


def histogram_shares(values: Floats, edges: Sequence[float]) -> Floats:
    """Return the fraction of values in each bin, those beyond the edges in the first and the last."""
    index = np.clip(np.searchsorted(np.asarray(edges), values, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(index, minlength=len(edges) - 1)
    return count / max(len(values), 1)


def brightness(image: NDArray[np.uint8]) -> float:
    """Return an RGB image's mean luma (Rec. 601), 0..1."""
    small = image[:: max(1, image.shape[0] // 64), :: max(1, image.shape[1] // 64)]
    return float((small.reshape(-1, 3) @ np.array([0.299, 0.587, 0.114])).mean() / 255)


def shared(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Return the positions of what is in both of two lists (hashes of files, say), the first of equal ones."""
    where = {value: i for i, value in reversed(list(enumerate(first)))}
    return [(where[value], j) for j, value in enumerate(second) if value in where]
