"""Annotations of a dataset in memory: image files, sizes and objects in flat arrays that DataLoader workers share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.data.image import image_size


class DataError(ValueError):
    """Raised for data that is missing or does not match the configuration."""


def first_few(names: Sequence[str]) -> str:
    """Return the first three names as text, for messages about lists that may be long."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


class Strings(Sequence[str]):
    """Immutable sequence of strings in one byte array: forked workers share its memory pages, unlike those of a list."""

    def __init__(self, items: Sequence[str]) -> None:
        encoded = [item.encode() for item in items]
        self._data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0] + [len(e) for e in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self._data[self._ends[i] : self._ends[i + 1]].tobytes().decode()


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
        difficult: bool [M], VOC's difficult objects.
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

    def __len__(self) -> int:
        return len(self.files)

    def objects(self, i: int) -> slice:
        """Return the slice of image i's objects in the flat arrays."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def to_coco(self) -> dict[str, Any]:
        """Return the annotations in COCO format, with "difficult" added.

        Annotation ids start at 1: pycocotools treats an id of 0 as unmatched.
        """
        images = [
            {"id": self.image_ids[i], "file_name": self.files[i].rpartition("/")[2], "height": int(h), "width": int(w)}
            for i, (h, w) in enumerate(self.sizes)
        ]
        image_of = np.repeat(np.arange(len(self)), np.diff(self.offsets)).tolist()
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
                    "difficult": int(self.difficult[j]),
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


def train_objects(records: Annotations, keep_difficult: bool) -> TrainObjects:
    """Clip boxes to their images, and drop and count crowd regions, degenerate boxes and duplicates.

    A box without area after clipping has no regression target: the box coder would take the logarithm of 0.

    Args:
        records: the dataset.
        keep_difficult: keep VOC's difficult objects.
    """
    image_of = np.repeat(np.arange(len(records)), np.diff(records.offsets))
    height, width = records.sizes[image_of, 0], records.sizes[image_of, 1]
    boxes = records.boxes.copy()
    boxes[:, 0::2] = np.clip(boxes[:, 0::2], 0, width[:, None])
    boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, height[:, None])
    size = boxes[:, 2:] - boxes[:, :2]
    degenerate = ~((size > 0).all(axis=1) & np.isfinite(records.boxes).all(axis=1))
    rows = np.column_stack((image_of, records.labels, records.boxes))
    duplicate = np.ones(len(rows), dtype=bool)
    duplicate[np.unique(rows, axis=0, return_index=True)[1]] = False
    reasons = {"crowd": records.crowd, "degenerate": degenerate, "duplicate": duplicate}
    if not keep_difficult:
        reasons["difficult"] = records.difficult
    keep = np.ones(len(rows), dtype=bool)
    dropped = {}
    for reason, mask in reasons.items():
        dropped[reason] = int((mask & keep).sum())
        keep &= ~mask
    clipped = int((keep & (boxes != records.boxes).any(axis=1)).sum())
    return TrainObjects(keep, boxes.astype(np.float32), {k: v for k, v in dropped.items() if v}, clipped)
