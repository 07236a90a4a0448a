"""COCO's matching of detections and objects, at several IoUs at once, and average precision from it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detection.analysis.scene import Bools, Floats, Ints, Pairs, Scene, position_in_group

IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0, 1, 101)
MISSED = -1  # in place of an index


@dataclass(frozen=True)
class Matches:
    """Which object each detection matches, at T values of IoU.

    Attributes:
        ious: T values.
        of_detection: int64 [T, D], the index of the object, or MISSED.
        of_object: int64 [T, M], the index of the detection, or MISSED; of an ignored object the last one.
        ignored: bool [T, D], detections that count neither for nor against.
    """

    ious: tuple[float, ...]
    of_detection: Ints
    of_object: Ints
    ignored: Bools

    @cached_property
    def true_positive(self) -> Bools:
        """Detections that match an object that counts, bool [T, D]."""
        return (self.of_detection != MISSED) & ~self.ignored

    @cached_property
    def false_positive(self) -> Bools:
        """Detections that match none, bool [T, D]."""
        return (self.of_detection == MISSED) & ~self.ignored


def match(
    scene: Scene,
    pairs: Pairs,
    ious: Sequence[float] = IOUS,
    *,
    ignored: Bools | None = None,
    in_range: Bools | None = None,
) -> Matches:
    """Match detections to objects of their class as COCOeval does.

    In the order of their scores detections take the object with the highest IoU that no other has taken; one that counts
    before an ignored one, and of equal IoUs the last. A crowd region can be taken by many.

    Args:
        scene: the data.
        pairs: of :func:`detection.analysis.scene.overlapping_pairs`.
        ious: T minimum IoUs of a match.
        ignored: bool [M], objects that do not count; None takes ``scene.object_ignored``. Those of them that are no crowd
            regions can be taken once.
        in_range: bool [D], detections outside of it that match nothing are ignored (COCO's area ranges); None takes those of
            no negative area, as COCO's widest range does.
    """
    ignored = scene.object_ignored if ignored is None else ignored
    same = scene.label[pairs.detection] == scene.object_label[pairs.object]
    same &= pairs.iou >= min(ious)
    detection, other, iou = pairs.detection[same], pairs.object[same], pairs.iou[same]
    thresholds = np.minimum(np.array(ious), 1 - 1e-10)[:, None]
    order = np.lexsort((np.arange(len(scene.label)), scene.label, scene.image))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = position_in_group(scene.image[order] * max(len(scene.classes), 1) + scene.label[order])
    # above 2 are those that count, so that any of them comes before an ignored one
    value = np.where(iou >= thresholds, iou + np.where(ignored[other], 0.0, 2.0), -1.0)
    of_detection, of_object = greedy(
        detection, other, value, rank, len(scene.object_label), reusable=scene.object_ignored
    )
    unmatched = of_detection == MISSED
    result = np.where(unmatched, False, ignored[of_detection] if len(ignored) else False)
    in_range = scene.extent >= 0 if in_range is None else in_range
    result |= unmatched & ~in_range
    return Matches(tuple(ious), of_detection, of_object, result)


def greedy(
    detection: Ints,
    other: Ints,
    value: Floats,
    rank: Ints,
    objects: int,
    *,
    reusable: Bools | None = None,
    last: bool = True,
) -> tuple[Ints, Ints]:
    """Give detections, in the order of their ranks, the object with the highest value that is still free.

    Args:
        detection, other: int64 [P], pairs of a detection and an object, ordered by detection.
        value: float64 [T, P], for T matchings; negative where they do not match.
        rank: int64 [D], 0 for the first detection of a group (an image, or a class in it) that shares objects, then 1, 2 …
        objects: M.
        reusable: bool [M], objects that any number of detections may take.
        last: of equal values the last object is taken, else the first.

    Returns:
        The object of each detection int64 [T, D], and the detection of each object int64 [T, M], else MISSED.
    """
    of_detection = np.full((len(value), len(rank)), MISSED, dtype=np.int64)
    of_object = np.full((len(value), objects), MISSED, dtype=np.int64)
    # the k-th detections of all groups can be matched at once, after the k - 1 before them
    by_rank = np.argsort(rank[detection], kind="stable")
    bounds = np.searchsorted(rank[detection][by_rank], np.arange(rank.max(initial=-1) + 2))
    for begin, end in itertools.pairwise(bounds):
        rows = by_rank[begin:end]
        if not len(rows):
            continue
        free = of_object[:, other[rows]] == MISSED
        if reusable is not None:
            free |= reusable[other[rows]]
        values = np.where(free, value[:, rows], -1.0)
        starts = np.flatnonzero(np.diff(detection[rows], prepend=-1))
        best = np.maximum.reduceat(values, starts, axis=1)
        is_best = values == np.repeat(best, np.diff(starts, append=len(rows)), axis=1)
        position = np.arange(len(rows)) if last else -np.arange(len(rows))
        chosen = np.abs(np.maximum.reduceat(np.where(is_best, position, -len(rows)), starts, axis=1))
        t, segment = np.nonzero(best >= 0)
        matched = rows[chosen[t, segment]]
        of_detection[t, detection[matched]] = other[matched]
        of_object[t, other[matched]] = detection[matched]
    return of_detection, of_object


def by_score(scene: Scene) -> Ints:
    """Return the order of detections by class, and within a class by decreasing score, ties in order."""
    return scene.score_order


def class_bounds(scene: Scene, order: Ints) -> Ints:
    """Return where each class begins and ends in ``order``, int64 [K + 1]."""
    return np.searchsorted(scene.label[order], np.arange(len(scene.classes) + 1))


def interpolated(true: Bools, false: Bools, objects: float) -> Floats:
    """Return the precision at recalls 0, 0.01 .. 1 (COCO's): the highest at that recall or a higher one.

    Args:
        true, false: bool [n], of detections by decreasing score; those that are neither are ignored.
        objects: how many there are to find.
    """
    return interpolate(np.cumsum(true, dtype=np.int64), np.cumsum(false, dtype=np.int64), objects)


def interpolate(tp: Ints | Floats, fp: Ints | Floats, objects: float, recalls: Floats = RECALLS) -> Floats:
    """Return the same from cumulative counts [n], which may be weighted, at any recalls."""
    values = np.zeros(len(recalls))
    if not len(tp) or objects <= 0:
        return values
    precision = tp / (tp + fp + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(tp / objects, recalls, side="left")
    reached = index < len(envelope)
    values[reached] = envelope[index[reached]]
    return values


def average_precision(scene: Scene, matches: Matches, objects: Ints | None = None) -> Floats:
    """Return the average precision by IoU and class, float64 [T, K]; NaN for classes without objects.

    Args:
        scene: the data.
        matches: of its detections.
        objects: int64 [K], how many objects count; None takes those that are not ignored.
    """
    counts = scene.object_count if objects is None else objects
    order = by_score(scene)
    bounds = class_bounds(scene, order)
    true, false = matches.true_positive[:, order], matches.false_positive[:, order]
    result = np.full((len(matches.ious), len(scene.classes)), np.nan)
    for k in np.flatnonzero(counts).tolist():
        part = slice(bounds[k], bounds[k + 1])
        for t in range(len(matches.ious)):
            result[t, k] = interpolated(true[t, part], false[t, part], counts[k]).mean()
    return result


def mean(values: Floats) -> float | None:
    """Return the mean of the values that are not NaN, or None where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
