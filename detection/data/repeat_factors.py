"""Repeat-factor sampling: images with rare classes come several times an epoch (Gupta et al., LVIS, 2019, section 4.1).

With f(c) the fraction of the training images that have an object of class c, and a threshold t,

    r(c) = max(1, sqrt(t / f(c)))        of a class
    r(i) = max over c in image i of r(c) of an image, 1 where it has no object

Image i comes r(i) times an epoch on average: floor(r(i)) times, and once more with the probability of the rest, drawn anew
each epoch (detectron2's RepeatFactorTrainingSampler).
"""

import numpy as np
from numpy.typing import NDArray


def repeat_factors(
    image_of: NDArray[np.int64], labels: NDArray[np.int64], images: NDArray[np.int64], threshold: float
) -> NDArray[np.float64]:
    """Return r(i) of each training image, float64 [n].

    Args:
        image_of: int64 [M], the image of each object that is trained on.
        labels: int64 [M], its class, 1..K.
        images: int64 [n], the training images, in ascending order; other images' objects do not count.
        threshold: t, a fraction of the images: classes on fewer of them are repeated; 0 repeats none.
    """
    row = np.searchsorted(images, image_of)
    known = row < len(images)
    known[known] = images[row[known]] == image_of[known]
    # a class counts once an image, however many of its objects the image has
    pairs = np.unique(np.column_stack((row[known], labels[known])), axis=0).astype(np.int64).reshape(-1, 2)
    frequency = np.bincount(pairs[:, 1]) / max(len(images), 1)
    of_class = np.maximum(1.0, np.sqrt(threshold / np.maximum(frequency, 1e-12)))
    factors = np.ones(len(images))
    np.maximum.at(factors, pairs[:, 0], of_class[pairs[:, 1]])
    return factors


def epoch_rows(factors: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the rows of one epoch in random order, each as often as its factor, rounded at random to a whole number.

    Args:
        factors: float64 [n], of :func:`repeat_factors`.
        rng: of the epoch.
    """
    whole = np.floor(factors)
    counts = (whole + (rng.random(len(factors)) < factors - whole)).astype(np.int64)
    return rng.permutation(np.repeat(np.arange(len(factors)), counts))


def describe(factors: NDArray[np.float64]) -> str:
    """Return a summary of :func:`repeat_factors` for the log."""
    more = factors[factors > 1]
    if not len(more):
        return f"no class is that rare, each of {len(factors)} images comes once an epoch"
    return (
        f"{len(more)} of {len(factors)} images come {more.min():.2f} to {more.max():.2f} times an epoch, which then has "
        f"about {factors.sum():.0f} images"
    )
