"""TIDE: what kinds of errors cost how much AP (Bolya et al., 2020), in the order and with the rules of its authors' tidecv;
and the stack of COCO's error analysis."""

from dataclasses import dataclass

import numpy as np

from detection.analysis.matching import MISSED, greedy, interpolate, interpolated, match, mean
from detection.analysis.scene import Bools, Floats, Ints, Pairs, Scene, position_in_group

KINDS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
CLS, LOC, BOTH, DUPE, BKG, MISS = range(6)
CORRECT, UNSEEN = 6, 7  # of detections that are no errors
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
_PER_IMAGE = 100  # detections of an image that tidecv looks at


_RECALLS = np.arange(101) / 100  # tidecv's; linspace differs in the last bit


@dataclass(frozen=True)
class Errors:
    """TIDE's errors of each detection and object.

    Attributes:
        kind: int64 [D], CLS to BKG, CORRECT, or UNSEEN (beyond the 100 best of the image).
        object: int64 [D], the object that a detection found or that its error is about, or MISSED.
        fixed: bool [D], whether it would be correct if its error were fixed; other errors of kind Cls and Loc would be
            removed, since an object can be found once.
        ignored: bool [D], on an ignored object, neither for nor against.
        found_by: int64 [M], the detection of each object, or MISSED.
        missed: bool [M], objects that no fixed error would find.
    """

    kind: Ints
    object: Ints
    fixed: Bools
    ignored: Bools
    found_by: Ints
    missed: Bools


def tide_errors(scene: Scene, pairs: Pairs, positive: float = 0.5, background: float = 0.1) -> Errors:
    """Return each detection's error at an IoU of ``positive``.

    As in tidecv the best 100 detections of an image are looked at, all classes together, and the kinds are asked for in the
    order Loc, Cls, Dupe, Bkg, Both.

    Args:
        scene: the data.
        pairs: of :func:`detection.analysis.scene.overlapping_pairs`.
        positive: minimum IoU of a match.
        background: at a lower IoU with every object a detection is on the background.
    """
    count, position = len(scene.label), position_in_group(scene.image)
    used = position < _PER_IMAGE
    keep = used[pairs.detection] & scene.counted[pairs.object]
    detection, other, iou = pairs.detection[keep], pairs.object[keep], pairs.iou[keep]
    same = scene.label[detection] == scene.object_label[other]
    value = np.where(iou[same] >= positive, iou[same], -1.0)[None]
    found, found_by = (
        x[0] for x in greedy(detection[same], other[same], value, position, len(scene.object_label), last=False)
    )
    best_same, same_object = _best(count, detection[same], other[same], iou[same])
    best_other, other_object = _best(count, detection[~same], other[~same], iou[~same])
    taken = same & (found_by[other] != MISSED)
    best_taken, _ = _best(count, detection[taken], other[taken], iou[taken])

    kind = np.full(count, BOTH, dtype=np.int64)
    kind[np.maximum(best_same, best_other) <= background] = BKG
    kind[best_taken >= positive] = DUPE
    kind[best_other >= positive] = CLS
    kind[(best_same >= background) & (best_same <= positive)] = LOC
    kind[found != MISSED] = CORRECT
    kind[~used] = UNSEEN
    about = np.select([kind == CLS, kind == LOC, kind == CORRECT], [other_object, same_object, found], MISSED)
    candidates = np.flatnonzero((kind == CLS) | (kind == LOC))
    candidates = candidates[found_by[about[candidates]] == MISSED]
    fixed = np.zeros(count, dtype=bool)
    # of the errors about an object the one with the highest score; an image's detections are sorted by it
    fixed[candidates[np.unique(about[candidates], return_index=True)[1]]] = True
    missed = scene.counted & (found_by == MISSED)
    missed[about[candidates]] = False
    region = ~scene.counted[pairs.object] & (scene.label[pairs.detection] == scene.object_label[pairs.object])
    ignored = np.zeros(count, dtype=bool)
    ignored[pairs.detection[region & (pairs.iou > positive)]] = True
    ignored &= used & (found == MISSED)
    return Errors(kind, about, fixed, ignored, found_by, missed)


def _best(count: int, detection: Ints, other: Ints, iou: Floats) -> tuple[Floats, Ints]:
    """Return each detection's highest IoU, 0 without pairs, and its object, the first of several, or MISSED."""
    best, objects = np.zeros(count), np.full(count, MISSED, dtype=np.int64)
    order = np.lexsort((-other, iou, detection))
    best[detection[order]], objects[detection[order]] = iou[order], other[order]  # the last assignment holds
    return best, objects


@dataclass(frozen=True)
class Costs:
    """What errors cost, in AP at one IoU, fractions 0..1.

    Attributes:
        base: mean over classes with objects or detections (tidecv's mean; COCO's leaves out classes without objects).
        kinds: by kind of error what fixing all of it would gain; "FP" and "FN": without any false positive or negative.
        per_class: float64 [8, K], the same in the AP of each class; NaN without objects and detections.
        per_size: size of COCO -> kind -> gain of fixing the errors of that size.
        counts: errors by kind.
    """

    base: float | None
    kinds: dict[str, float | None]
    per_class: Floats
    per_size: dict[str, dict[str, float | None]]
    counts: dict[str, int]


def tide_costs(scene: Scene, errors: Errors) -> Costs:
    """Return what fixing each kind of error would gain, as tidecv does.

    A fixed Cls or Loc error becomes correct, the others are removed, a missed object is no longer counted. Sizes are those
    of the object where the error is about one, else of the detection's box; gains below 0, which interpolation can give, are
    0.
    """
    counted = _Counter(scene, errors)
    base = counted.ap(np.zeros(len(scene.label), bool), np.zeros(len(scene.object_label), bool))
    mean_base = mean(base)
    fixes = {name: (errors.kind == k, errors.missed & (k == MISS)) for k, name in enumerate(KINDS)}
    with_fix = {name: counted.ap(*fix) for name, fix in fixes.items()}
    with_fix |= {"FP": counted.without_false_positives(), "FN": counted.without_false_negatives()}

    def gain(ap: Floats, least: float = 0.0) -> float | None:
        value = mean(ap)
        return None if mean_base is None else max((0.0 if value is None else value) - mean_base, least)

    extent = (
        np.where(errors.object == MISSED, scene.extent, scene.object_extent[errors.object])
        if len(scene.object_extent)
        else scene.extent
    )
    about_object = (errors.kind == CLS) | (errors.kind == LOC)
    extent = np.where(about_object, extent, scene.extent)
    per_size = {}
    for size, (low, high) in SIZES.items():
        inside = ((extent > low) | (low == 0)) & (extent <= high)
        object_inside = ((scene.object_extent > low) | (low == 0)) & (scene.object_extent <= high)
        per_size[size] = {
            name: gain(counted.ap(detections & inside, objects & object_inside))
            for name, (detections, objects) in fixes.items()
        }
    counts = {name: int((errors.kind == k).sum()) for k, name in enumerate(KINDS)}
    return Costs(
        base=mean_base,
        kinds={name: gain(ap, -1.0 if name in ("FP", "FN") else 0.0) for name, ap in with_fix.items()},
        per_class=np.array([np.where(np.isnan(ap), 0.0, ap) - base for ap in with_fix.values()]),
        per_size=per_size,
        counts=counts | {"Miss": int(errors.missed.sum())},
    )


class _Counter:
    """AP of each class with some errors fixed. Detections are sorted once by class and score."""

    def __init__(self, scene: Scene, errors: Errors) -> None:
        self.scene, self.errors, self.objects = scene, errors, scene.object_count
        self.order = scene.score_order
        self.correct = errors.kind == CORRECT
        self.seen = (errors.kind != UNSEEN) & ~errors.ignored

    def ap(self, fixed: Bools, missed: Bools) -> Floats:
        """Return the AP of each class with the errors of detections ``fixed`` [D] and objects ``missed`` [M] fixed; NaN for
        classes that have neither objects nor detections left."""
        scene, errors = self.scene, self.errors
        becomes = fixed & errors.fixed
        keep = (self.seen & ~fixed) | becomes
        correct = self.correct | becomes
        moved = becomes & (errors.kind == CLS)
        order, label = self.order[keep[self.order]], scene.label
        if moved.any():  # found objects of another class
            label = np.where(moved, scene.object_label[errors.object], label)
            order = order[np.lexsort((-scene.score[order], label[order]))]
        objects = self.objects - np.bincount(scene.object_label[missed], minlength=len(self.objects))
        return self._curves(label[order], correct[order], objects)

    def without_false_positives(self) -> Floats:
        """Return the AP where each false positive has a lower score than each true one."""
        order = self.order[self.seen[self.order]]
        order = order[np.lexsort((~self.correct[order], self.scene.label[order]))]
        return self._curves(self.scene.label[order], self.correct[order], self.objects)

    def without_false_negatives(self) -> Floats:
        """Return the AP where objects that are not found are not counted."""
        order, found = self.order[self.seen[self.order]], self.errors.found_by != MISSED
        objects = np.bincount(self.scene.object_label[found], minlength=len(self.objects))
        return self._curves(self.scene.label[order], self.correct[order], objects)

    def _curves(self, label: Ints, correct: Bools, objects: Ints) -> Floats:
        bounds = np.searchsorted(label, np.arange(len(objects) + 1))
        result = np.full(len(objects), np.nan)
        for k, count in enumerate(objects.tolist()):
            true = correct[bounds[k] : bounds[k + 1]]
            if count or len(true):
                result[k] = _average(true, count)
        return result


def _average(true: Bools, objects: int) -> float:
    tp, fp = np.cumsum(true, dtype=np.int64), np.cumsum(~true, dtype=np.int64)
    return float(interpolate(tp, fp, objects, _RECALLS).mean())


def error_stack(scene: Scene, pairs: Pairs) -> tuple[list[str], Floats]:
    """Return the stack of COCO's error analysis (Hoiem et al., 2012): the mean precision at recalls 0, 0.01 .. 1 as kinds of
    errors are forgiven one after the other.

    C75 and C50 are the plain curves at these IoUs; Loc forgives bad boxes (IoU 0.1); Oth forgives detections on objects of
    other classes; BG forgives all other false positives; FN forgives missed objects, and is 1.

    Returns:
        The names, and the curves float64 [6, 101], their means over recall being the areas.
    """
    names = ["C75", "C50", "Loc", "Oth", "BG", "FN"]
    matches = match(scene, pairs, (0.75, 0.5, 0.1))
    order = scene.score_order
    counts = scene.object_count
    bounds = np.searchsorted(scene.label[order], np.arange(len(counts) + 1))
    near = np.zeros(len(scene.label), dtype=bool)
    others = scene.counted[pairs.object] & (scene.label[pairs.detection] != scene.object_label[pairs.object])
    near[pairs.detection[others & (pairs.iou >= 0.1)]] = True
    true, false = matches.true_positive[:, order], matches.false_positive[:, order]
    stages = [(true[t], false[t]) for t in range(3)] + [(true[2], false[2] & ~near[order]), (true[2], false[2] & False)]
    curves = np.zeros((len(names), len(_RECALLS)))
    classes = np.flatnonzero(counts).tolist()
    for row, (is_true, is_false) in enumerate(stages):
        for k in classes:
            part = slice(bounds[k], bounds[k + 1])
            curves[row] += interpolated(is_true[part], is_false[part], counts[k])
    curves /= max(len(classes), 1)
    curves[-1] = 1.0
    return names, curves
