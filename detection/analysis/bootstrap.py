"""How far AP would move with other images: bootstrap over images (Efron, 1979), and each image's influence."""

from collections.abc import Callable

import numpy as np

from detection.analysis.matching import RECALLS, Matches, by_score
from detection.analysis.scene import Bools, Floats, Ints, Scene, position_in_group


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
        self.object_cell = scene.object_label[counted]
        self.object_image = scene.object_image[counted]
        order = by_score(scene)
        self.image, label = scene.image[order], scene.label[order]
        self.starts = np.searchsorted(label, np.arange(self.classes))
        groups = np.lexsort((np.arange(len(label)), label, self.image))
        rank = np.empty(len(label), dtype=np.int64)
        rank[groups] = position_in_group(self.image[groups] * max(self.classes, 1) + label[groups])
        self.true: list[tuple[Ints, Ints, Ints, Ints, Ints]] = []
        for t in range(len(matches.ious)):
            ignored = np.flatnonzero(matches.ignored[t][order])
            true = np.flatnonzero(matches.true_positive[t][order])
            # of the ignored detections those before each true positive do not count
            before = np.searchsorted(ignored, true)
            self.true.append((true, label[true], ignored, before, rank[true]))

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return AP [T, K], as :func:`detection.analysis.matching.average_precision`, and recall [T, 3, K] of the best 1, 10
        and all detections of a class in an image; NaN for classes without objects.

        Args:
            weights: float64 [N], of the images.
        """
        objects = np.bincount(self.object_cell, weights[self.object_image], minlength=self.classes)
        weight = weights[self.image]
        total = np.concatenate(([0.0], np.cumsum(weight)))
        ap = np.full((len(self.true), self.classes), np.nan)
        recalls = np.full((len(self.true), 3, self.classes), np.nan)
        some = objects > 0
        # true positives that each recall needs: comparing whole numbers is exact, where tp / objects >= recall rounds
        needed = np.ceil(objects[:, None] * RECALLS - 1e-9)
        needed += needed / np.maximum(objects, 1e-300)[:, None] < RECALLS
        apart = float(objects.max(initial=0.0) + 2)
        for t, (true, label, ignored, before, rank) in enumerate(self.true):
            found = np.concatenate(([0.0], np.cumsum(weight[true])))
            first = np.searchsorted(label, np.arange(self.classes))
            tp = found[1:] - found[first][label]
            left_out = np.concatenate(([0.0], np.cumsum(weight[ignored])))
            out = left_out[before] - left_out[np.searchsorted(ignored, self.starts)][label]
            count = total[true + 1] - total[self.starts][label] - out
            precision = np.divide(tp, count, out=np.zeros_like(tp), where=count > 0)
            # classes one after the other in one array: the offsets keep them apart
            offset = 2.0 * (self.classes - 1 - label)
            envelope = np.maximum.accumulate((precision + offset)[::-1])[::-1] - offset
            index = np.searchsorted(tp + apart * label, needed + apart * np.arange(self.classes)[:, None])
            ends = np.append(first[1:], len(label))
            value = np.append(envelope, 0.0)[np.where(index < ends[:, None], index, len(envelope))]
            ap[t, some] = value.mean(axis=1)[some]
            for i, limit in enumerate((1, 10, np.inf)):
                hits = np.bincount(label, weight[true] * (rank < limit), minlength=self.classes)
                recalls[t, i, some] = hits[some] / objects[some]
        return ap, recalls


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


def interval(values: Floats, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the percentile interval of bootstrap replicates, without those that are NaN; None where fewer than half are
    left."""
    defined = values[~np.isnan(values)]
    if len(defined) < max(len(values) / 2, 2):
        return None
    low, high = np.quantile(defined, ((1 - confidence) / 2, (1 + confidence) / 2))
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
