"""The confusion matrix of detections, with the background, at any threshold of the score."""

from dataclasses import dataclass

import numpy as np

from detection.analysis.matching import MISSED, greedy
from detection.analysis.scene import Bools, Ints, Pairs, Scene, position_in_group


@dataclass(frozen=True)
class Confusion:
    """Which object, of any class, each detection is on.

    Detections are matched by decreasing score, so what one matches does not depend on those below it: one matching holds for
    every threshold.

    Attributes:
        of_detection: int64 [D], the object, or MISSED: a false positive on the background.
        of_object: int64 [M], the detection, or MISSED.
        ignored: bool [D], detections on ignored objects.
    """

    of_detection: Ints
    of_object: Ints
    ignored: Bools


def match_any_class(scene: Scene, pairs: Pairs, iou: float = 0.5) -> Confusion:
    """Match detections and objects of all classes by decreasing score: each takes the free object with the highest IoU, of
    equal ones one of its own class. What is left and lies on an ignored object is ignored."""
    counted = scene.counted[pairs.object]
    keep = counted & (pairs.iou >= iou)
    detection, other = pairs.detection[keep], pairs.object[keep]
    own = scene.label[detection] == scene.object_label[other]
    value = pairs.iou[keep] + np.where(own, 1e-9, 0.0)
    of_detection, of_object = greedy(
        detection, other, value[None], position_in_group(scene.image), len(scene.object_label), last=False
    )
    ignored = np.zeros(len(scene.label), dtype=bool)
    ignored[pairs.detection[~counted & (pairs.iou >= iou)]] = True
    return Confusion(of_detection[0], of_object[0], ignored & (of_detection[0] == MISSED))


def confusion_matrix(scene: Scene, confusion: Confusion, threshold: float = 0.0) -> Ints:
    """Return the matrix int64 [K + 1, K + 1]: rows are the objects' classes, columns the detections', the last of both the
    background; the corner is 0.

    Args:
        scene: the data.
        confusion: of :func:`match_any_class`.
        threshold: detections with a lower score are left out.
    """
    background = len(scene.classes)
    shown = (scene.score >= threshold) & ~confusion.ignored
    matched = shown & (confusion.of_detection != MISSED)
    row = np.full(len(scene.label), background, dtype=np.int64)
    row[matched] = scene.object_label[confusion.of_detection[matched]]
    found = np.zeros(len(scene.object_label), dtype=bool)
    found[confusion.of_detection[matched]] = True
    lost = scene.counted & ~found
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    np.add.at(matrix, (row[shown], scene.label[shown]), 1)
    np.add.at(matrix[:, background], scene.object_label[lost], 1)
    return matrix


def top_confusions(scene: Scene, matrix: Ints, count: int = 10) -> list[tuple[str, str, int]]:
    """Return the most frequent confusions between classes: (object's class, detection's class, how often)."""
    between = matrix[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    order = np.argsort(-between, axis=None, kind="stable")[:count]
    cells = [np.unravel_index(i, between.shape) for i in order.tolist()]
    return [(scene.classes[r], scene.classes[c], int(between[r, c])) for r, c in cells if between[r, c]]
