"""Ground truth and detections of a data set as flat arrays, and the IoU of those that overlap."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
MAX_DETECTIONS = 100  # COCO's, of a class in an image
_CHUNK = 1 << 20  # pairs whose IoU is computed at once


@dataclass(frozen=True)
class Scene:
    """N images with M objects of K classes and D detections.

    Objects are ordered by image, detections by image and then by decreasing score, ties in the order given. Labels are
    0..K-1 here. Boxes are float64 xyxy in pixels.

    Attributes:
        classes: K names.
        category_ids: K ids in the files.
        image_ids: N ids in the files.
        files: N file names, "" where there is none.
        sizes: int64 [N, 2], (height, width), 0 where unknown.
        entries: N entries of the annotation file, with keys of the user's own.
        object_image, object_label: int64 [M].
        object_box: float64 [M, 4].
        object_area: float64 [M], COCO's area in square pixels.
        object_extent: float64 [M], width times height as given: corners round it.
        object_ignored: bool [M], crowd regions and difficult objects, which count neither for nor against.
        object_id: M ids in the annotation file.
        image, label: int64 [D], of detections.
        box: float64 [D, 4].
        extent: float64 [D], width times height as given.
        score: float64 [D].
        dropped: how many detections were left out because an image had more than ``MAX_DETECTIONS`` of a class.
    """

    classes: tuple[str, ...]
    category_ids: tuple[Any, ...]
    image_ids: tuple[Any, ...]
    files: tuple[str, ...]
    sizes: Ints
    entries: Sequence[dict[str, Any]]
    object_image: Ints
    object_label: Ints
    object_box: Floats
    object_area: Floats
    object_extent: Floats
    object_ignored: Bools
    object_id: Sequence[Any]
    image: Ints
    label: Ints
    box: Floats
    extent: Floats
    score: Floats
    dropped: int = 0

    @cached_property
    def counted(self) -> Bools:
        """Which objects count, bool [M]."""
        return ~self.object_ignored

    @cached_property
    def score_order(self) -> Ints:
        """The order of detections by class, and within a class by decreasing score, ties in order, int64 [D]."""
        order: Ints = np.lexsort((np.arange(len(self.score)), -self.score, self.label))
        return order

    @cached_property
    def object_count(self) -> Ints:
        """Objects that count of each class, int64 [K]."""
        return np.bincount(self.object_label[self.counted], minlength=len(self.classes))


def scene_from_coco(
    ground_truth: dict[str, Any], detections: Sequence[dict[str, Any]], max_detections: int = MAX_DETECTIONS
) -> Scene:
    """Return the arrays of COCO annotations and results.

    Args:
        ground_truth: COCO annotations; ``iscrowd`` or ``difficult`` objects are ignored.
        detections: COCO results, on images and of classes of the annotations; others are left out.
        max_detections: of a class in an image; the best are kept.
    """
    images = sorted(ground_truth["images"], key=lambda image: (isinstance(image["id"], str), image["id"]))
    categories = sorted(ground_truth["categories"], key=lambda c: (isinstance(c["id"], str), c["id"]))
    image_of = {image["id"]: i for i, image in enumerate(images)}
    class_of = {category["id"]: k for k, category in enumerate(categories)}
    annotations = ground_truth["annotations"]
    image = np.array([image_of[a["image_id"]] for a in annotations], dtype=np.int64)
    order = np.argsort(image, kind="stable")
    annotations = [annotations[i] for i in order.tolist()]
    object_box, extent = _corners([a["bbox"] for a in annotations])
    stated = np.array([np.nan if a.get("area") is None else a["area"] for a in annotations], dtype=np.float64)
    known = [d for d in detections if d["image_id"] in image_of and d["category_id"] in class_of]
    columns = _detections(known, image_of, class_of, max_detections)
    return Scene(
        classes=tuple(str(c["name"]) for c in categories),
        category_ids=tuple(class_of),
        image_ids=tuple(image_of),
        files=tuple(str(im.get("file_name") or "") for im in images),
        sizes=np.array([(im.get("height") or 0, im.get("width") or 0) for im in images], dtype=np.int64).reshape(-1, 2),
        entries=images,
        object_image=image[order],
        object_label=np.array([class_of[a["category_id"]] for a in annotations], dtype=np.int64),
        object_box=object_box,
        object_area=np.where(np.isnan(stated), extent, stated),
        object_extent=extent,
        object_ignored=np.array([bool(a.get("iscrowd") or a.get("difficult")) for a in annotations], dtype=bool),
        object_id=[a.get("id") for a in annotations],
        **columns,
    )


def _detections(
    known: list[dict[str, Any]], image_of: dict[Any, int], class_of: dict[Any, int], limit: int
) -> dict[str, Any]:
    """Return the detections' columns, sorted, and how many are beyond the limit."""
    image = np.array([image_of[d["image_id"]] for d in known], dtype=np.int64)
    label = np.array([class_of[d["category_id"]] for d in known], dtype=np.int64)
    score = np.array([d["score"] for d in known], dtype=np.float64)
    box, extent = _corners([d["bbox"] for d in known])
    order = np.lexsort((-score, label, image))
    rank = position_in_group(image[order] * len(class_of) + label[order])
    order = order[rank < limit]
    order = order[np.lexsort((order, -score[order], image[order]))]
    return {
        "image": image[order],
        "label": label[order],
        "box": box[order],
        "extent": extent[order],
        "score": score[order],
        "dropped": len(known) - len(order),
    }


def _corners(boxes: list[Any]) -> tuple[Floats, Floats]:
    """Return boxes [x, y, w, h] as corners [n, 4], and w * h [n]."""
    xywh = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1), xywh[:, 2] * xywh[:, 3]


def position_in_group(group: Ints) -> Ints:
    """Return each element's position among those of its group, which are neighbours: [5, 5, 2] gives [0, 1, 0]."""
    if not len(group):
        return np.zeros(0, dtype=np.int64)
    start = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    return np.arange(len(group)) - np.repeat(start, np.diff(start, append=len(group)))


def pair_overlap(a: Floats, b: Floats) -> Floats:
    """Return the area in which each row of ``a`` and the same row of ``b`` overlap, xyxy [..., 4]."""
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    np.clip(size, 0, None, out=size)
    overlap: Floats = size[..., 0] * size[..., 1]
    return overlap


@dataclass(frozen=True)
class Pairs:
    """P pairs of a detection and an object of its image that overlap, ordered by detection and then by object.

    Attributes:
        detection, object: int64 [P], indices in a :class:`Scene`.
        iou: float64 [P]; with an ignored object the intersection over the detection's area.
        plain_iou: float64 [P], the IoU also with an ignored object.
    """

    detection: Ints
    object: Ints
    iou: Floats
    plain_iou: Floats


def overlapping_pairs(scene: Scene, at_least: float = 0.0) -> Pairs:
    """Return the pairs of all classes whose IoU is at least ``at_least``."""
    start = np.searchsorted(scene.object_image, scene.image)
    count = np.searchsorted(scene.object_image, scene.image, side="right") - start
    ends = np.cumsum(count)
    parts: list[tuple[Ints, Ints, Floats, Floats]] = []
    first = 0
    while first < len(count):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        rows = np.arange(first, last)
        detection = np.repeat(rows, count[rows])
        position = np.arange(len(detection)) - np.repeat(ends[rows] - count[rows] - before, count[rows])
        other = start[detection] + position
        overlap = pair_overlap(scene.box[detection], scene.object_box[other])
        touching = overlap > 0
        detection, other, overlap = detection[touching], other[touching], overlap[touching]
        plain = overlap / (scene.extent[detection] + scene.object_extent[other] - overlap)
        iou = np.where(scene.object_ignored[other], overlap / scene.extent[detection], plain)
        keep = np.maximum(iou, plain) >= at_least
        parts.append((detection[keep], other[keep], iou[keep], plain[keep]))
        first = last
    empty = np.zeros(0, dtype=np.int64)
    if not parts:
        return Pairs(empty, empty, np.zeros(0), np.zeros(0))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))  # type: ignore[arg-type]
