"""What the readers of this package share: sizes and stamps of many files, the folder of images, and building records."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import Annotations, DataError, Strings
from detection.data.cache import Arrays, cached, decode_json, encode_json
from detection.data.files import NearNames, Stamp, in_threads, is_file, stamp
from detection.data.image import SUFFIXES, UnreadableImage, image_size
from detection.data.issues import Issue

_TEMPORARY = ("unreadable image", "missing image")  # not cached: the next reading may find it


def digest(values: Any) -> str:
    """Return a short cache key of many values."""
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()


def read_sizes(files: Sequence[str]) -> tuple[NDArray[np.int64], list[Issue]]:
    """Return (height, width) int64 [N, 2] of image files, 0 for one that cannot be read, which is an issue."""

    def read(file: str) -> tuple[int, int] | Issue:
        try:
            return image_size(file)
        except FileNotFoundError:  # a link to nowhere
            return Issue("missing image", file)
        except (UnreadableImage, OSError, ValueError) as error:
            return Issue("unreadable image", file, None, str(error))

    found = in_threads(read, files)
    sizes = [(0, 0) if isinstance(size, Issue) else size for size in found]
    return np.array(sizes, dtype=np.int64).reshape(-1, 2), [issue for issue in found if isinstance(issue, Issue)]


def cached_sizes(name: str, files: Sequence[str], stamps: Sequence[Stamp]) -> tuple[NDArray[np.int64], list[Issue]]:
    """Return :func:`read_sizes`, from the cache where the files are as they were; ``name`` is that of their cache file."""

    def read() -> Arrays:
        sizes, issues = read_sizes(files)
        return {"sizes": sizes, "issues": encode_issues(issues)}

    key = digest((list(files), list(stamps)))
    arrays = cached(f"sizes {name}", key, read, skip_if=has_temporary)
    return arrays["sizes"], decode_issues(arrays["issues"])


def has_temporary(arrays: Arrays) -> bool:
    """Return whether what was read has an issue that the next reading may not have."""
    return any(issue.kind in _TEMPORARY for issue in decode_issues(arrays["issues"]))


def encode_issues(issues: Sequence[Issue]) -> NDArray[np.uint8]:
    """Return issues as an array, to cache them."""
    return encode_json([(i.kind, i.file, i.object, i.found) for i in issues])


def decode_issues(array: NDArray[np.uint8]) -> list[Issue]:
    """Return the issues of :func:`encode_issues`."""
    return [Issue(*row) for row in decode_json(array)]


def best_folder(candidates: Iterable[Path], names: Sequence[str], source: str) -> Path:
    """Return the folder that has most of the images, judged by 50 of ``names``; the first of several.

    Raises:
        DataError: none has any; names the folders, and a file that may be meant.
    """
    folders = list(dict.fromkeys(candidates))
    sample = names[:: max(1, len(names) // 50)][:50]
    counts = [sum(is_file(folder / name) for name in sample) for folder in folders]
    if not any(counts):
        near = [h for f in folders if f.is_dir() and (h := NearNames(os.listdir(f)).hint(names[0])) and h != names[0]]
        tried = ", ".join(map(str, folders))
        raise DataError(f"{source}: none of its images (the first is {[*near, names[0]][0]}) found in {tried}")
    return folders[counts.index(max(counts))]


def stem(file: str) -> str:
    """Return a file's name without the extension of an image."""
    base, dot, extension = file.rpartition(".")
    return base if base and f"{dot}{extension}".lower() in SUFFIXES else file


@dataclass
class Collected:
    """Images and objects as a reader meets them; :meth:`build` makes the records.

    Attributes:
        name: of the dataset, for messages.
        images: the name of each image -> its row.
        issues: found on the way.
    """

    name: str
    images: dict[str, int] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)
    stated: dict[int, tuple[int, int]] = field(default_factory=dict)
    sources: list[str] | None = None
    _rows: list[tuple[int, str, tuple[float, ...], bool, str]] = field(default_factory=list)

    def image(self, name: str) -> int:
        """Return an image's row, a new one where it is new."""
        return self.images.setdefault(name, len(self.images))

    def state(self, row: int, size: tuple[int, int]) -> None:
        """Keep the (height, width) that the annotations state of an image."""
        self.stated.setdefault(row, size)

    def add(self, row: int, label: str, box: Sequence[float], name: str, *, crowd: bool = False) -> None:
        """Add an object of a class: its box xyxy, and its name in the annotation file; a non-finite box is an issue."""
        if not np.isfinite(box).all():
            self.issue("non-finite box", name, str([*box]), row)
            return
        self._rows.append((row, label, tuple(box), crowd, name))

    def issue(self, kind: str, name: str | None = None, found: str = "", row: int | None = None) -> None:
        """Add an issue of an entry of the annotation file, which is that of an image where each has one."""
        file = self.name if self.sources is None or row is None else self.sources[row]
        self.issues.append(Issue(kind, file, name, found))

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Return the boxes so far, [M, 4]."""
        return np.array([row[2] for row in self._rows], dtype=np.float64).reshape(-1, 4)

    def build(
        self, folder: Path, classes: Sequence[str] | None, *, relative: bool = False, expected: str = ""
    ) -> Annotations:
        """Return the records: images in the order they came in, without those that have no file or cannot be read.

        Args:
            folder: of the images.
            classes: names in order; None takes those that occur, sorted. Objects of other classes are issues.
            relative: boxes are fractions of the image's size.

        Raises:
            DataError: no images.
        """
        names = list(self.images)
        files = [f"{folder}/{name}" for name in names]
        stamps = in_threads(stamp, files)
        near = NearNames(os.listdir(folder)) if None in stamps and folder.is_dir() else NearNames([])
        for name, found in zip(names, stamps, strict=True):
            if found is None:
                self.issue("missing image", None, f"{near.hint(name)}, in {folder}")
        rows = [i for i, found in enumerate(stamps) if found is not None]
        sizes = np.zeros((len(names), 2), dtype=np.int64)
        sizes[rows], unreadable = cached_sizes(self.name, [files[i] for i in rows], [stamps[i] for i in rows])
        self.issues += unreadable
        for i, size in self.stated.items():
            if sizes[i].all() and size != tuple(sizes[i].tolist()):
                self.issue(
                    "another size stated",
                    None,
                    f"{names[i]} {size[0]}x{size[1]}, the image is {sizes[i, 0]}x{sizes[i, 1]}",
                )
        found_classes = sorted({row[1] for row in self._rows})
        names_of_classes = list(dict.fromkeys(found_classes if classes is None else classes))
        label_of = {name: k for k, name in enumerate(names_of_classes, 1)}
        kept = []
        for row in sorted(self._rows, key=lambda row: row[0]):
            if row[1] in label_of:
                kept.append(row)
            else:
                self.issue(
                    "unknown class", row[4], f"{row[1]!r}, the classes are {', '.join(names_of_classes[:5])}", row[0]
                )
        boxes = np.array([row[2] for row in kept], dtype=np.float64).reshape(-1, 4)
        image_of = np.array([row[0] for row in kept], dtype=np.int64)
        if relative:
            boxes = to_pixels(boxes, sizes[image_of])
        ids = [stem(name) for name in names]
        repeated = [i for i, count in Counter(ids).items() if count > 1]
        self.issues += [Issue("several images of one name", self.name, None, name) for name in repeated]
        return make_records(
            name=self.name,
            classes=names_of_classes,
            image_ids=ids,
            files=files,
            sizes=sizes,
            counts=np.bincount(image_of, minlength=len(names)),
            boxes=boxes,
            labels=np.array([label_of[row[1]] for row in kept], dtype=np.int64),
            crowd=np.array([row[3] for row in kept], dtype=bool),
            object_names=Strings([row[4] for row in kept]),
            sources=None if self.sources is None else Strings(self.sources),
            folder=str(folder),
            issues=tuple(self.issues),
        ).select(np.asarray((sizes > 0).all(axis=1)))


def to_pixels(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return boxes xyxy [M, 4], which are fractions of their images' (height, width) [M, 2], in pixels.

    Files have six decimals, which move an edge that is the image's by up to 1e-6 of its side: it is put back. Pixels are
    rounded to nine decimals, since 0.1 * 30 is not 3.
    """
    sides = sizes[:, [1, 0, 1, 0]].astype(np.float64)
    near = np.abs(boxes - np.round(boxes)) <= 1e-6
    edge = near & (np.round(boxes) == np.array([0, 0, 1, 1]))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.where(edge, np.array([0, 0, 1, 1]) * sides, np.round(boxes * sides, 9)))


def make_records(
    *,
    name: str,
    classes: Sequence[str],
    image_ids: Sequence[Any],
    files: Sequence[str],
    sizes: NDArray[np.int64],
    counts: NDArray[np.int64],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    crowd: NDArray[np.bool_] | None = None,
    category_ids: Sequence[int] | None = None,
    **others: Any,
) -> Annotations:
    """Return records of a format that states neither areas nor difficult objects: areas are those of the boxes."""
    with np.errstate(over="ignore", invalid="ignore"):
        areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    none = np.zeros(len(boxes), dtype=bool)
    return Annotations(
        name=name,
        classes=tuple(classes),
        category_ids=tuple(category_ids or range(1, len(classes) + 1)),
        image_ids=image_ids,
        files=Strings(files),
        sizes=sizes,
        offsets=np.concatenate(([0], np.cumsum(counts, dtype=np.int64))),
        boxes=boxes,
        labels=labels,
        areas=areas,
        crowd=none if crowd is None else crowd,
        difficult=none,
        **others,
    )
