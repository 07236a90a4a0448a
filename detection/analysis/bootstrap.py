"""How far AP would move with other images: bootstrap over images (Efron, 1979), and each image's influence."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from detection.analysis.matching import RECALLS, Matches, by_score
from detection.analysis.scene import Bools, Floats, Ints, Scene, position_in_group

_NORMAL = NormalDist()


class WeightedAP:
    """AP and recall of a data set whose images have weights: an image of weight 2 counts as if it were there twice.

    Args:
        scene: the data.
        matches: of its detections.
        counted: bool [M], objects that count; None takes those that are not ignored.
    """

    def __init__(self, scene: Scene, matches: Matches, counted: Bools | None = None) -> None:
        self.classes = len(scene.classes)
        counted = scene.counted if counted is None else counted
        self.object_label, self.object_image = scene.object_label[counted], scene.object_image[counted]
        order = by_score(scene)
        groups = np.lexsort((np.arange(len(order)), scene.label, scene.image))
        rank = np.empty(len(order), dtype=np.int64)
        rank[groups] = position_in_group(scene.image[groups] * max(self.classes, 1) + scene.label[groups])
        order = order[~matches.ignored[:, order].all(axis=0)]
        self.image, label, rank = scene.image[order], scene.label[order], rank[order]
        starts = np.searchsorted(label, np.arange(self.classes))
        self.parts = [
            _Part(label, rank, starts, ignored[order], true[order])
            for ignored, true in zip(matches.ignored, matches.true_positive, strict=True)
        ]

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return AP [T, K], as :func:`detection.analysis.matching.average_precision`, and recall [T, 3, K] of the best 1, 10
        and all detections of a class in an image; NaN for classes without objects.

        Args:
            weights: float64 [N], of the images; whole numbers.
        """
        objects = np.bincount(self.object_label, weights[self.object_image], minlength=self.classes)
        weight = weights[self.image]
        total = _sums(weight)
        some = objects > 0
        # true positives that each recall needs: comparing whole numbers is exact, where tp / objects >= recall rounds
        needed = np.ceil(objects[:, None] * RECALLS - 1e-9)
        needed += needed / np.maximum(objects, 1e-300)[:, None] < RECALLS
        apart = float(objects.max(initial=0.0) + 2)
        needed += apart * np.arange(self.classes)[:, None]
        ap = np.full((len(self.parts), self.classes), np.nan)
        recalls = np.full((len(self.parts), 3, self.classes), np.nan)
        for t, part in enumerate(self.parts):
            ap[t, some] = part.average_precision(weight, total, needed, apart)[some]
            for i, hits in enumerate(part.found(weight)):
                recalls[t, i, some] = hits[some] / objects[some]
        return ap, recalls


class _Part:
    """The true positives of all classes at one IoU, by class and decreasing score, and what is needed of the others."""

    def __init__(self, label: Ints, rank: Ints, starts: Ints, ignored: Bools, true: Bools) -> None:
        classes = len(starts)
        self.true, self.ignored = np.flatnonzero(true), np.flatnonzero(ignored)
        self.label, self.classes = label[self.true], classes
        self.first = np.searchsorted(self.label, np.arange(classes))
        self.ends = np.append(self.first[1:], len(self.label))[:, None]
        self.begin = starts[self.label]
        # of the ignored detections those before a true positive do not count
        self.before = np.searchsorted(self.ignored, self.true)
        self.ignored_begin = np.searchsorted(self.ignored, starts)[self.label]
        self.top = [np.flatnonzero(rank[self.true] < limit) for limit in (1, 10)]
        # classes one after the other in one array: the offsets keep them apart
        self.offset = 2.0 * (classes - 1 - self.label)

    def average_precision(self, weight: Floats, total: Floats, needed: Floats, apart: float) -> Floats:
        """Return the AP of each class, float64 [K]; without objects it means nothing."""
        found = _sums(weight[self.true])
        tp = found[1:] - found[self.first][self.label]
        count = total[self.true + 1] - total[self.begin]
        if len(self.ignored):
            left_out = _sums(weight[self.ignored])
            count -= left_out[self.before] - left_out[self.ignored_begin]
        precision = tp / np.maximum(count, 1e-300)
        envelope = np.empty(len(tp) + 1)
        envelope[:-1] = np.maximum.accumulate((precision + self.offset)[::-1])[::-1] - self.offset
        envelope[-1] = 0.0
        index = np.searchsorted(tp + apart * self.label, needed)
        return envelope[np.where(index < self.ends, index, len(tp))].mean(axis=1)

    def found(self, weight: Floats) -> list[Floats]:
        """Return the weight of the true positives of each class among the best 1, 10 and all detections of an image."""
        own = weight[self.true]
        chosen = [*self.top, np.arange(len(own))]
        return [np.bincount(self.label[i], own[i], minlength=self.classes).astype(np.float64) for i in chosen]


def _sums(values: Floats) -> Floats:
    """Return cumulative sums that begin with 0, float64 [n + 1]."""
    result = np.zeros(len(values) + 1)
    np.cumsum(values, out=result[1:])
    return result


def summary(ap: Floats, recall: Floats) -> dict[str, float]:
    """Return COCO's means of the result of :class:`WeightedAP`; NaN where undefined."""

    def mean(values: Floats) -> float:
        defined = values[~np.isnan(values)]
        return float(defined.mean()) if defined.size else float("nan")

    names = {"AP": ap, "AP50": ap[:1], "AP75": ap[5:6]}
    names |= {name: recall[:, i] for i, name in enumerate(("AR1", "AR10", "AR100"))}
    return {name: mean(values) for name, values in names.items()}


def bootstrap_weights(images: int, replicates: int, seed: int = 0) -> Floats:
    """Return how often each image is drawn, float64 [replicates, N]: N draws with replacement each."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / max(images, 1)), size=replicates).astype(np.float64)


def interval(values: Floats, estimate: float | None = None, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of bootstrap replicates, without those that are NaN; None where fewer than half are left.

    Args:
        values: of the replicates.
        estimate: of all images, by which the percentiles are corrected for bias (Efron, 1981): AP of redrawn images leans
            upward, since a class with few objects has fewer different ones. None takes the plain percentiles.
        confidence: how often it should hold the truth.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < max(len(values) / 2, 2):
        return None
    bias = 0.0
    if estimate is not None:
        below = ((defined < estimate).sum() + 0.5 * (defined == estimate).sum()) / len(defined)
        bias = _NORMAL.inv_cdf(float(np.clip(below, 0.5 / len(defined), 1 - 0.5 / len(defined))))
    reach = _NORMAL.inv_cdf((1 + confidence) / 2)
    low, high = np.quantile(defined, [_NORMAL.cdf(2 * bias + sign * reach) for sign in (-1, 1)])
    if estimate is not None:
        low, high = min(low, estimate), max(high, estimate)
    return float(low), float(high)


def bootstrap(statistic: Callable[[Floats], Floats], images: int, replicates: int = 200, seed: int = 0) -> Floats:
    """Return a statistic of each bootstrap replicate, stacked [replicates, …].

    Args:
        statistic: of the images' weights, float64 [N].
        images: N.
        replicates: how many.
        seed: of the draws; two statistics with one seed are paired.
    """
    return np.stack([statistic(weights) for weights in bootstrap_weights(images, replicates, seed)])


def influence(scene: Scene, matches: Matches, iou: int = 0) -> Floats:
    """Return for each image what the mean AP would gain without it, to first order, float64 [N]; positive where it costs AP.

    It is the negative derivative of AP by the image's weight (the infinitesimal jackknife), for AP as the area under the
    plain curve: of n objects AP is the sum of the precisions at the true positives over n.
    """
    result = np.zeros(len(scene.image_ids))
    objects = scene.object_count
    classes = np.flatnonzero(objects)
    order = by_score(scene)
    bounds = np.searchsorted(scene.label[order], np.arange(len(objects) + 1))
    counted = scene.counted
    for k in classes.tolist():
        part = order[bounds[k] : bounds[k + 1]]
        part = part[~matches.ignored[iou][part]]
        true, image = matches.true_positive[iou][part], scene.image[part]
        tp, seen = np.cumsum(true), np.arange(1, len(part) + 1)
        precision = np.where(true, tp / seen, 0.0)
        ap = precision.sum() / objects[k]
        # a detection raises the counts of its own rank and of all that follow
        later_tp = np.cumsum(np.where(true, 1 / seen, 0.0)[::-1])[::-1]
        later_seen = np.cumsum(np.where(true, tp / seen**2, 0.0)[::-1])[::-1]
        change = precision + np.where(true, later_tp, 0.0) - later_seen
        own = np.bincount(scene.object_image[counted & (scene.object_label == k)], minlength=len(result))
        gain = np.bincount(image, change, minlength=len(result)) - own * ap
        result -= gain / objects[k] / len(classes)
    return result
