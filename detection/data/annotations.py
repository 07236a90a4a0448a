"""A data set in memory: image names, sizes and annotations in flat arrays, which loading processes share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.data.image import image_size


class DataError(ValueError):
    """Data that is not where, or not as, the configuration says."""


def first_few(names: Sequence[str]) -> str:
    """What a message shows of a list that may be long."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


class Strings(Sequence[str]):
    """Immutable strings in one block of bytes: forked workers share its pages, which they would not a list's."""

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
class Records:
    """N images with M annotated objects of K classes.

    Attributes:
        name: what the set is called in messages.
        classes: K names; label k + 1 stands for classes[k].
        category_ids: K ids of the file that the classes came from.
        image_ids: N ids, integers (COCO) or strings (VOC).
        files: N paths; for drawn pictures, names.
        sizes: int64 [N, 2], height and width as the file states or the picture has them.
        offsets: int64 [N + 1]; image i has the objects offsets[i]:offsets[i + 1].
        boxes: float64 [M, 4] xyxy as annotated, neither clipped nor sorted out.
        labels: int64 [M], 1..K.
        areas: float64 [M], COCO's area of the object.
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
        """Where image i's objects stand in the flat arrays."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def to_coco(self) -> dict[str, Any]:
        """The annotations in COCO's form, "difficult" added; ids of annotations count from 1, since pycocotools takes
        an id of 0 for "unmatched"."""
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
                    # COCO's metric knows no difficult objects; as crowd they count neither for nor against a detector
                    "iscrowd": int(self.crowd[j] or self.difficult[j]),
                    "difficult": int(self.difficult[j]),
                }
            )
        categories = [{"id": c, "name": n} for c, n in zip(self.category_ids, self.classes, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}


@dataclass(frozen=True)
class TrainObjects:
    """Which objects training sees, and how many it leaves out for which reason."""

    keep: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    dropped: dict[str, int]
    clipped: int


def train_objects(records: Records, keep_difficult: bool) -> TrainObjects:
    """Boxes clipped to their image; crowd regions, degenerate boxes and repeated ones left out, and counted.

    An object without area after clipping, or outside of its picture, teaches nothing and would break the box coding.
    """
    image_of = np.repeat(np.arange(len(records)), np.diff(records.offsets))
    height, width = records.sizes[image_of, 0], records.sizes[image_of, 1]
    boxes = records.boxes.copy()
    boxes[:, 0::2] = np.clip(boxes[:, 0::2], 0, width[:, None])
    boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, height[:, None])
    size = boxes[:, 2:] - boxes[:, :2]
    degenerate = ~((size > 0).all(axis=1) & np.isfinite(records.boxes).all(axis=1))
    rows = np.column_stack((image_of, records.labels, records.boxes))
    repeated = np.ones(len(rows), dtype=bool)
    repeated[np.unique(rows, axis=0, return_index=True)[1]] = False
    reasons = {"crowd": records.crowd, "degenerate": degenerate, "repeated": repeated}
    if not keep_difficult:
        reasons["difficult"] = records.difficult
    keep = np.ones(len(rows), dtype=bool)
    dropped = {}
    for reason, mask in reasons.items():
        dropped[reason] = int((mask & keep).sum())
        keep &= ~mask
    clipped = int((keep & (boxes != records.boxes).any(axis=1)).sum())
    return TrainObjects(keep, boxes.astype(np.float32), {k: v for k, v in dropped.items() if v}, clipped)


def from_arrays(
    files: Sequence[str],
    boxes: Sequence[Any],
    labels: Sequence[Any],
    classes: Sequence[str],
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    name: str = "arrays",
) -> Records:
    """Return records of images and boxes that are in memory.

    Args:
        files: N paths of images.
        boxes: of each image [n, 4], xyxy in pixels, exclusive right and bottom edges; n may be 0.
        labels: of each image [n], 1..K.
        classes: K names.
        sizes: (height, width) of each image; None reads them from the files' headers.
        name: of the set, for messages.

    Raises:
        DataError: lists of different lengths, boxes of another shape, or labels outside of 1..K; names the image.
        FileNotFoundError: a file is not there.
    """
    if not len(files) == len(boxes) == len(labels):
        raise DataError(f"{name}: {len(files)} files, boxes of {len(boxes)} and labels of {len(labels)} images")
    own_boxes, own_labels = [], []
    for i, file in enumerate(files):
        box = np.asarray(boxes[i], dtype=np.float64).reshape(-1, 4) if np.size(boxes[i]) % 4 == 0 else None
        label = np.asarray(labels[i], dtype=np.int64).reshape(-1)
        if box is None or len(box) != len(label):
            raise DataError(
                f"{name}: {file}: wanted boxes [n, 4] and labels [n], got {np.shape(boxes[i])} and {label.shape}"
            )
        if len(label) and not (label.min() >= 1 and label.max() <= len(classes)):
            raise DataError(f"{name}: {file}: labels are 1..{len(classes)}, got {sorted(set(label.tolist()))}")
        own_boxes.append(box)
        own_labels.append(label)
    if sizes is None:
        sizes = [image_size(file) for file in files]
    flat = np.concatenate([np.zeros((0, 4)), *own_boxes])
    side = flat[:, 2:] - flat[:, :2]
    count = len(flat)
    return Records(
        name=name,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        image_ids=list(range(1, len(files) + 1)),
        files=Strings([str(file) for file in files]),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        offsets=np.cumsum([0, *map(len, own_labels)], dtype=np.int64),
        boxes=flat,
        labels=np.concatenate([np.zeros(0, dtype=np.int64), *own_labels]),
        areas=side.prod(axis=1),
        crowd=np.zeros(count, dtype=bool),
        difficult=np.zeros(count, dtype=bool),
    )
