"""Objects whose annotation is probably wrong: a confident detection says otherwise (after Northcutt et al., 2021, and
Cleanlab's overlooked, swapped and badly located)."""

from dataclasses import dataclass

import numpy as np

from detection.analysis.matching import MISSED, Matches
from detection.analysis.scene import Pairs, Scene

MISSING, WRONG_CLASS, BADLY_PLACED = "missing", "wrong class", "badly placed"


@dataclass(frozen=True)
class Suspicion:
    """One annotation in doubt.

    Attributes:
        kind: missing, wrong class, or badly placed.
        detection: index of the detection that says so.
        object: index of the object, or MISSED.
        score: of the detection.
        iou: of both; 0 without an object.
    """

    kind: str
    detection: int
    object: int
    score: float
    iou: float


def suspicions(
    scene: Scene, pairs: Pairs, matches: Matches, threshold: float = 0.5, most: int = 2000
) -> list[Suspicion]:
    """Return annotations in doubt, by decreasing score.

    Of false positives with a score of at least ``threshold``: one that overlaps no object (IoU below 0.1) is a missing
    annotation; one on an object of another class (IoU at least 0.5) that nothing of its own class found, a wrong class; one
    that overlaps an object of its class (0.1 to 0.5) that nothing found, a badly placed box. A detection on an ignored
    object is none of these, and of several detections that say the same of an object, or overlap one another without one,
    the first counts. The ``most`` detections with the highest scores are looked at.
    """
    doubtful = matches.false_positive[0] & (scene.score >= threshold)
    rows = np.flatnonzero(doubtful)
    rows = np.sort(rows[np.argsort(-scene.score[rows], kind="stable")[:most]])
    begin = np.searchsorted(pairs.detection, rows)
    end = np.searchsorted(pairs.detection, rows, side="right")
    result: list[Suspicion] = []
    told: set[int] = set()
    seen: dict[tuple[int, int], list[int]] = {}
    found = matches.of_object[0] != MISSED
    for i, a, b in sorted(
        zip(rows.tolist(), begin.tolist(), end.tolist(), strict=True), key=lambda r: -scene.score[r[0]]
    ):
        other, iou = pairs.object[a:b], pairs.plain_iou[a:b]
        suspicion = _judge(scene, i, other, iou, found)
        if suspicion is None:
            continue
        if suspicion.object != MISSED:
            if suspicion.object not in told:
                told.add(suspicion.object)
                result.append(suspicion)
            continue
        near = seen.setdefault((int(scene.image[i]), int(scene.label[i])), [])
        if not any(_overlap(scene, i, j) > 0.5 for j in near):
            near.append(i)
            result.append(suspicion)
    return result


def _judge(scene: Scene, i: int, other: np.ndarray, iou: np.ndarray, found: np.ndarray) -> Suspicion | None:  # type: ignore[type-arg]
    score = float(scene.score[i])
    if not len(other) or iou.max() < 0.1:
        on_ignored = len(other) and scene.object_ignored[other].any()
        return None if on_ignored else Suspicion(MISSING, i, MISSED, score, 0.0)
    best = int(np.argmax(iou))
    j, value = int(other[best]), float(iou[best])
    if scene.object_ignored[j] or found[j]:
        return None
    same = scene.object_label[j] == scene.label[i]
    if value >= 0.5 and not same:
        return Suspicion(WRONG_CLASS, i, j, score, value)
    if same and value < 0.5:
        return Suspicion(BADLY_PLACED, i, j, score, value)
    return None


def _overlap(scene: Scene, i: int, j: int) -> float:
    a, b = scene.box[i], scene.box[j]
    size = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    overlap = float(size.prod())
    union = float(scene.extent[i] + scene.extent[j]) - overlap
    return overlap / union if union > 0 else 0.0
