"""Annotations of a dataset in memory: image files, sizes and objects in flat arrays that DataLoader workers share."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.data.image import image_size
from detection.data.issues import Issue, refusal, warn


class DataError(ValueError):
    """Raised for data that is missing or does not match the configuration."""


def first_few(names: Sequence[str]) -> str:
    """Return the first three names as text, for messages about lists that may be long."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


class Strings(Sequence[str]):
    """Immutable sequence of strings in one byte array: forked workers share its memory pages, unlike those of a list."""

    def __init__(self, items: Sequence[str]) -> None:
        joined = "".join(items)
        if joined.isascii():
            self._data = np.frombuffer(joined.encode(), dtype=np.uint8)
            self._ends = np.cumsum([0, *map(len, items)], dtype=np.int64)
            return
        # surrogates: file names that are not UTF-8, and half characters in JSON
        encoded = [item.encode("utf-8", "surrogatepass") for item in items]
        self._data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0] + [len(e) for e in encoded], dtype=np.int64)

    @classmethod
    def from_arrays(cls, data: NDArray[np.uint8], ends: NDArray[np.int64]) -> "Strings":
        """Return the sequence that :meth:`to_arrays` gave."""
        strings = cls.__new__(cls)
        strings._data, strings._ends = data, ends
        return strings

    def to_arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the bytes of all strings, and where each begins and ends, int64 [n + 1]."""
        return self._data, self._ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self._data[self._ends[i] : self._ends[i + 1]].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Annotations:
    """N images with M annotated objects of K classes.

    Attributes:
        name: of the dataset, for messages.
        classes: K names; label k + 1 is classes[k].
        category_ids: K category ids of the annotation file.
        image_ids: N ids, integers (COCO) or strings (VOC).
        files: N paths; for synthetic images, names.
        sizes: int64 [N, 2], (height, width) from the annotations or the image file.
        offsets: int64 [N + 1]; image i has the objects offsets[i]:offsets[i + 1].
        boxes: float64 [M, 4] xyxy in pixels as annotated, neither clipped nor filtered.
        labels: int64 [M], 1..K.
        areas: float64 [M], COCO's object area in square pixels.
        crowd: bool [M], COCO's crowd regions.
        difficult: bool [M], VOC's difficult objects: neither trained on nor evaluated.
        object_names: M numbers or ids in the annotation file, for messages; None counts from 1 within each image.
        sources: N annotation files, for messages; None where ``name`` says it.
        folder: ``files`` are relative to it in COCO's format; None takes the last part of their names.
        issues: that reading found; those of single boxes come from :func:`box_issues`.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: Sequence[Any]
    files: Strings
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    object_names: Sequence[str] | None = None
    sources: Sequence[str] | None = None
    folder: str | None = None
    issues: tuple[Issue, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def objects(self, i: int) -> slice:
        """Return the slice of image i's objects in the flat arrays."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def image_of(self) -> NDArray[np.int64]:
        """Return the image index of each object, int64 [M]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def source(self, i: int) -> str:
        """Return the annotation file of image i, with the image's name where the file has many images."""
        return f"{self.name}: {self.file_name(i)}" if self.sources is None else self.sources[i]

    def object_name(self, j: int, i: int) -> str:
        """Return the number or id of object j, of image i, in its annotation file."""
        return str(j - int(self.offsets[i]) + 1) if self.object_names is None else self.object_names[j]

    def file_name(self, i: int) -> str:
        """Return the file name of image i as in COCO's format: relative to the image folder."""
        file = self.files[i]
        return file.rpartition("/")[2] if self.folder is None else file.removeprefix(f"{self.folder}/")

    def select(self, keep: NDArray[np.bool_]) -> "Annotations":
        """Return the images for which bool [N] is True, with their objects."""
        if keep.all():
            return self
        rows = np.flatnonzero(keep).tolist()
        objects = np.repeat(keep, np.diff(self.offsets))
        names, sources = self.object_names, self.sources
        return dataclasses.replace(
            self,
            image_ids=[self.image_ids[i] for i in rows],
            files=Strings([self.files[i] for i in rows]),
            sizes=self.sizes[keep],
            offsets=np.cumsum([0, *np.diff(self.offsets)[keep].tolist()], dtype=np.int64),
            **{key: getattr(self, key)[objects] for key in ("boxes", "labels", "areas", "crowd", "difficult")},
            object_names=None if names is None else Strings([names[j] for j in np.flatnonzero(objects).tolist()]),
            sources=None if sources is None else Strings([sources[i] for i in rows]),
        )

    def with_classes(self, classes: Sequence[str], *, renumber: bool = False) -> "Annotations":
        """Return the annotations with labels for ``classes``, which are matched by name.

        Args:
            classes: K names.
            renumber: category ids become 1..K, for formats that have none of their own; else a class keeps its id, and one
                that these annotations do not list gets the next free one.

        Raises:
            DataError: objects of a class that is not in ``classes``; lists both.
        """
        if tuple(classes) == self.classes:
            return self
        id_of = dict(zip(self.classes, self.category_ids, strict=True))
        counts = np.bincount(self.labels, minlength=len(self.classes) + 1)[1:]
        if unknown := [name for name, count in zip(self.classes, counts, strict=True) if count and name not in classes]:
            raise DataError(
                f"{self.name} has objects of {', '.join(unknown)}, which are not among the classes {', '.join(classes)}"
            )
        free = max([0, *self.category_ids]) + 1
        for name in classes:
            if name not in id_of:
                id_of[name], free = free, free + 1
        label_of = {name: k for k, name in enumerate(classes, 1)}
        table = np.array([0, *(label_of.get(name, 0) for name in self.classes)], dtype=np.int64)
        return dataclasses.replace(
            self,
            classes=tuple(classes),
            category_ids=tuple(range(1, len(classes) + 1)) if renumber else tuple(id_of[name] for name in classes),
            labels=table[self.labels],
        )

    def to_coco(self) -> dict[str, Any]:
        """Return the annotations in COCO format, with "difficult" added.

        Annotation ids start at 1: pycocotools treats an id of 0 as unmatched.
        """
        images = [
            {"id": self.image_ids[i], "file_name": self.file_name(i), "height": int(h), "width": int(w)}
            for i, (h, w) in enumerate(self.sizes)
        ]
        image_of = self.image_of().tolist()
        annotations = []
        for j, (i, (x1, y1, x2, y2)) in enumerate(zip(image_of, self.boxes.tolist(), strict=True)):
            annotations.append(
                {
                    "id": j + 1,
                    "image_id": self.image_ids[i],
                    "category_id": self.category_ids[self.labels[j] - 1],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(self.areas[j]),
                    # COCO's metric has no difficult objects; as crowd they are ignored, as VOC does
                    "iscrowd": int(self.crowd[j] or self.difficult[j]),
                    # nor has VOC's metric crowd regions
                    "difficult": int(self.crowd[j] or self.difficult[j]),
                }
            )
        categories = [{"id": c, "name": n} for c, n in zip(self.category_ids, self.classes, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}

    @staticmethod
    def from_arrays(
        files: Sequence[str],
        boxes: Sequence[Any],
        labels: Sequence[Any],
        classes: Sequence[str],
        *,
        sizes: Sequence[tuple[int, int]] | None = None,
        name: str = "arrays",
    ) -> "Annotations":
        """Return records built from arrays.

        Args:
            files: N image paths.
            boxes: for each image [n, 4], xyxy in pixels, exclusive right and bottom edges; n may be 0.
            labels: for each image [n], 1..K.
            classes: K names.
            sizes: (height, width) of each image; None reads them from the file headers.
            name: of the dataset, for messages.

        Raises:
            DataError: lists of different lengths, boxes of another shape, or labels outside 1..K; names the image.
            FileNotFoundError: an image file does not exist.
        """
        if not len(files) == len(boxes) == len(labels):
            raise DataError(f"{name}: {len(files)} files, boxes of {len(boxes)} and labels of {len(labels)} images")
        all_boxes, all_labels = [], []
        for i, file in enumerate(files):
            box = np.asarray(boxes[i], dtype=np.float64).reshape(-1, 4) if np.size(boxes[i]) % 4 == 0 else None
            label = np.asarray(labels[i], dtype=np.int64).reshape(-1)
            if box is None or len(box) != len(label):
                raise DataError(
                    f"{name}: {file}: expected boxes [n, 4] and labels [n], got {np.shape(boxes[i])} and {label.shape}"
                )
            if len(label) and not (label.min() >= 1 and label.max() <= len(classes)):
                raise DataError(
                    f"{name}: {file}: labels must be in 1..{len(classes)}, got {sorted(set(label.tolist()))}"
                )
            all_boxes.append(box)
            all_labels.append(label)
        if sizes is None:
            sizes = [image_size(file) for file in files]
        flat = np.concatenate([np.zeros((0, 4)), *all_boxes])
        widths_heights = flat[:, 2:] - flat[:, :2]
        count = len(flat)
        return Annotations(
            name=name,
            classes=tuple(classes),
            category_ids=tuple(range(1, len(classes) + 1)),
            image_ids=list(range(1, len(files) + 1)),
            files=Strings([str(file) for file in files]),
            sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            offsets=np.cumsum([0, *map(len, all_labels)], dtype=np.int64),
            boxes=flat,
            labels=np.concatenate([np.zeros(0, dtype=np.int64), *all_labels]),
            areas=widths_heights.prod(axis=1),
            crowd=np.zeros(count, dtype=bool),
            difficult=np.zeros(count, dtype=bool),
        )


@dataclass(frozen=True)
class TrainObjects:
    """The objects used for training.

    Attributes:
        keep: bool [M], True for the objects that are used.
        boxes: float32 [M, 4], clipped to their images.
        dropped: number of dropped objects by reason.
        clipped: number of kept boxes that were clipped.
    """

    keep: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    dropped: dict[str, int]
    clipped: int


def train_objects(records: Annotations, keep_difficult: bool, flags: "ObjectFlags | None" = None) -> TrainObjects:
    """Clip boxes to their images, and drop and count crowd regions, degenerate boxes and duplicates.

    A box without area after clipping has no regression target: the box coder would take the logarithm of 0.

    Args:
        records: the dataset.
        keep_difficult: keep VOC's difficult objects.
        flags: of :func:`flag_objects`, where they are at hand.
    """
    flags = flags or flag_objects(records)
    reasons = {"crowd": records.crowd, "degenerate": flags.degenerate | flags.outside, "duplicate": flags.duplicate}
    if not keep_difficult:
        reasons["difficult"] = records.difficult
    keep = np.ones(len(records.labels), dtype=bool)
    dropped = {}
    for reason, mask in reasons.items():
        dropped[reason] = int((mask & keep).sum())
        keep &= ~mask
    clipped = int((keep & flags.crossing).sum())
    return TrainObjects(keep, flags.clipped, {k: v for k, v in dropped.items() if v}, clipped)


@dataclass(frozen=True)
class ObjectFlags:
    """What is wrong with the box of each object: bool [M] each, at most one of the first three.

    Attributes:
        degenerate: no width or no height, or not finite.
        outside: does not overlap its image.
        duplicate: of an earlier object of the image, with the same class.
        crossing: partly outside its image.
        clipped: float32 [M, 4], the boxes clipped to their images.
    """

    degenerate: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    duplicate: NDArray[np.bool_]
    crossing: NDArray[np.bool_]
    clipped: NDArray[np.float32]


def flag_objects(records: Annotations) -> ObjectFlags:
    """Return what is wrong with each box, given the sizes of the images."""
    image_of = records.image_of()
    height, width = records.sizes[image_of, 0], records.sizes[image_of, 1]
    boxes = records.boxes.copy()
    boxes[:, 0::2] = np.clip(boxes[:, 0::2], 0, width[:, None])
    boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, height[:, None])
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite boxes
        size = records.boxes[:, 2:] - records.boxes[:, :2]
        degenerate = np.asarray(~((size > 0).all(axis=1) & np.isfinite(records.boxes).all(axis=1)))
        outside = np.asarray(~(boxes[:, 2:] > boxes[:, :2]).all(axis=1) & ~degenerate)
    # a crowd region is no duplicate of an object
    rows = np.column_stack((image_of, records.labels, records.crowd, records.difficult, records.boxes))
    duplicate = np.ones(len(rows), dtype=bool)
    duplicate[np.unique(rows, axis=0, return_index=True)[1]] = False
    duplicate &= ~(degenerate | outside)
    crossing = (boxes != records.boxes).any(axis=1) & ~(degenerate | outside)
    return ObjectFlags(degenerate, outside, duplicate, crossing, boxes.astype(np.float32))


def box_issues(records: Annotations, flags: ObjectFlags | None = None) -> list[Issue]:
    """Return the issues of single boxes: what :func:`train_objects` drops or clips, by object; ``flags`` as there."""
    flags = flags or flag_objects(records)
    kinds = (
        ("degenerate box", flags.degenerate),
        ("box outside", flags.outside),
        ("box across the edge", flags.crossing),
        ("repeated box", flags.duplicate),
    )
    image_of, issues = records.image_of(), []
    for kind, mask in kinds:
        for j in np.flatnonzero(mask).tolist():
            i = int(image_of[j])
            found = f"{records.classes[records.labels[j] - 1]} {', '.join(f'{v:g}' for v in records.boxes[j])}"
            if kind in ("box outside", "box across the edge"):
                found += f", the image is {records.sizes[i, 0]}x{records.sizes[i, 1]}"
            issues.append(Issue(kind, records.source(i), records.object_name(j, i), found))
    return issues


def convention_issues(records: Annotations, expected: str) -> list[Issue]:
    """Return issues of a whole set whose boxes look like another convention: relative, or corners in place of sizes.

    Args:
        records: boxes in pixels, with the sizes of the images where known.
        expected: what the format's boxes are, for the message.
    """
    with np.errstate(over="ignore"):
        xywh = np.column_stack((records.boxes[:, :2], records.boxes[:, 2:] - records.boxes[:, :2]))
    sound = xywh[(xywh[:, 2:] > 0).all(axis=1)]
    if len(sound) and sound.min() >= 0 and records.boxes.max() <= 1.001 and records.sizes.max(initial=0) > 2:
        first = ", ".join(f"{v:g}" for v in sound[0])
        found = (
            f"all {len(sound)} lie within 0..1 (the first is {first}): expected {expected} in pixels, multiply them by the "
            "image's size"
        )
        return [Issue("boxes look relative", records.name, None, found)]
    sizes = records.sizes[records.image_of()]
    known = (sizes > 0).all(axis=1)
    if beyond := beyond_unless_corners(xywh[known], sizes[known]):
        found = f"read as {expected} {beyond} of {int(known.sum())} leave the image, read as x1, y1, x2, y2 none would"
        return [Issue("boxes look like x1, y1, x2, y2", records.name, None, found)]
    return []


def beyond_unless_corners(xywh: NDArray[np.float64], sizes: NDArray[np.int64]) -> int:
    """Return how many boxes leave their image where all of them look like corners: read as x1, y1, x2, y2 none would, and as
    they are read a tenth does. 0 where they do not look like corners.

    Args:
        xywh: boxes [N, 4] as read: x, y, width, height.
        sizes: (height, width) of each box's image, [N, 2].
    """
    xy, wh, limit = xywh[:, :2], xywh[:, 2:], sizes[:, ::-1] + 1
    with np.errstate(over="ignore"):
        beyond = int((xy + wh > limit).any(axis=1).sum())
    as_corners = ((wh > xy) & (wh <= limit)).all()
    return beyond if as_corners and beyond >= max(2, 0.1 * len(xywh)) else 0


def finish_reading(annotations: Annotations, expected: str, logger: logging.Logger, *, strict: bool) -> Annotations:
    """Return what a reader read, with the issues of the whole set; where ``strict``, refuse it or log what is lost.

    Args:
        annotations: with the issues of reading.
        expected: what the format's boxes are, for messages.
        logger: of the reader.
        strict: for training and evaluation; the check reports the issues itself.

    Raises:
        DataError: strict, and an issue for which training refuses to start.
    """
    issues = (*annotations.issues, *convention_issues(annotations, expected))
    if strict:
        if message := refusal(issues):
            raise DataError(message)
        warn(logger, issues)
    return dataclasses.replace(annotations, issues=issues)


def why_nothing_to_train_on(records: Annotations, objects: TrainObjects) -> str:
    """Return why no object is left for training, such as "all 8 objects are crowd"; empty where one is left."""
    if objects.keep.any():
        return ""
    if not len(objects.keep):
        return f"none of its {len(records)} images has an object"
    reasons = [f"{count} {reason}" for reason, count in objects.dropped.items()]
    if len(reasons) == 1:
        return f"all {len(objects.keep)} objects are {next(iter(objects.dropped))}"
    return f"of its {len(objects.keep)} objects, {', '.join(reasons)} are dropped"
