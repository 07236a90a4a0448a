"""Read YOLO's text labels: a file an image, a row an object: its class, then centre and size of its box as fractions of the
image's size, or the corners of a polygon or a rotated box, whose enclosing box is taken.

Images without a label file, and with an empty one, have no objects, as with Ultralytics.
"""

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import Annotations, DataError, Strings, finish_reading
from detection.data.cache import Arrays, cached
from detection.data.files import NearNames, Stamp, in_threads, read_lines, stamp, walk
from detection.data.issues import Issue
from detection.data.readers.collect import (
    decode_issues,
    digest,
    encode_issues,
    has_temporary,
    make_records,
    read_sizes,
    to_pixels,
)
from detection.data.readers.yolo_layout import Layout, find_splits, read_layout, split_files

_LOG = logging.getLogger(__name__)
_BOXES = "x_center, y_center, width, height"  # of an object
_NOT_LABELS = ("classes.txt", "notes.txt")  # which label tools leave among them
_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16 and UTF-32
Row = tuple[int, float, float, float, float, int]  # class, x1 y1 x2 y2 as fractions, line


def read_yolo(root: str | Path, split: str, *, strict: bool = True) -> Annotations:
    """Read one split.

    Args:
        root: the dataset's folder, or its YAML file.
        split: a key of data.yaml (train, val, test), or a folder or list under the root; "a+b" joins two.
        strict: refuse broken rows and log the issues; else all are in ``issues``, and what is broken is left out.

    Raises:
        DataError: no such split, no images, no label of any; where strict, rows that cannot be read, or class ids that no
            name is given for; names the file and the line.
    """
    layout = read_layout(Path(root))
    files, sources, issues = split_files(layout, split)
    name = f"{layout.source or layout.root}:{split}"
    if not files:
        raise DataError(f"{name}: no images in {', '.join(sources)}")
    labels = [label_file(file) for file in files]
    stamps = in_threads(stamp, [*files, *labels])
    issues = [*layout.issues, *issues, *_missing(name, files, labels, stamps, sources)]
    return finish_reading(_records(layout, name, files, labels, stamps, issues), _BOXES, _LOG, strict=strict)


def source_stamps(root: Path, split: str) -> list[Stamp]:
    """Return the stamps of all files that a split is read from, as a cache key."""
    layout = read_layout(root)
    files, sources, _ = split_files(layout, split)
    paths = [*files, *map(label_file, files), *sources, *([str(layout.source)] if layout.source else [])]
    return in_threads(stamp, paths)


def label_file(image: str) -> str:
    """Return an image's label file: in ``labels`` in place of the last folder ``images``, else beside it."""
    head, folder, tail = image.rpartition("/images/")
    return f"{os.path.splitext(f'{head}/labels/{tail}' if folder else image)[0]}.txt"


def _missing(name: str, files: list[str], labels: list[str], stamps: list[Stamp], sources: list[str]) -> list[Issue]:
    """Return issues of images and label files that have no other.

    Raises:
        DataError: none of the images exists, or none has a label file.
    """
    of_files, of_labels = stamps[: len(files)], stamps[len(files) :]
    issues = [Issue("repeated name", name, None, f) for f, count in Counter(files).items() if count > 1]
    if not any(of_files):
        raise DataError(f"{name}: none of its {len(files)} images exists, the first is {files[0]}")
    if not any(of_labels):
        raise DataError(
            f"{name}: no label file for any of its {len(files)} images, the first would be {labels[0]}: expected "
            "labels/ in place of images/, or text files beside the images"
        )
    if None in of_files:
        near = NearNames(
            sorted({n for f in {os.path.dirname(f) for f in files} if os.path.isdir(f) for n in os.listdir(f)})
        )
        for file, found in zip(files, of_files, strict=True):
            if found is None:
                hint = near(os.path.basename(file))
                issues.append(Issue("missing image", name, None, file + (f" (there is {hint})" if hint else "")))
    without = [f for f, image, label in zip(files, of_files, of_labels, strict=True) if image and not label]
    if without:
        found_text = f"{len(without)} of {len(files)}, the first is {without[0]}"
        issues.append(Issue("image without label file", name, None, found_text))
    used = set(labels)
    for folder in filter(os.path.isdir, sources):
        label_folder = Path(label_file(f"{folder}/x.jpg")).parent
        texts = [f"{label_folder}/{n}" for n in walk(label_folder) if n.lower().endswith(".txt")]
        issues += [
            Issue("missing image", text, None, "a label file without an image")
            for text in texts
            if text not in used and os.path.basename(text) not in _NOT_LABELS
        ]
    return issues


def _records(
    layout: Layout, name: str, files: list[str], labels: list[str], stamps: list[Stamp], issues: list[Issue]
) -> Annotations:
    rows = [i for i, found in enumerate(stamps[: len(files)]) if found is not None]
    files, labels = [files[i] for i in rows], [labels[i] for i in rows]
    key = digest((files, [stamps[i] for i in rows], [stamps[len(stamps) // 2 + i] for i in rows], layout.keypoints))
    arrays = cached(f"yolo {name}", key, lambda: _read(files, labels, layout.keypoints), skip_if=has_temporary)
    issues = [*issues, *decode_issues(arrays["issues"])]
    image_of = np.repeat(np.arange(len(files)), arrays["counts"])
    kept, names, found = _known(layout, labels, image_of, arrays)
    issues += found
    ids = _image_ids(files)
    issues += [Issue("several images of one name", name, None, i) for i, n in Counter(ids).items() if n > 1]
    issues += _conventions(name, arrays["boxes"])
    number = {class_id: k for k, class_id in enumerate(names, 1)}
    return make_records(
        name=name,
        classes=list(names.values()),
        image_ids=ids,
        files=files,
        sizes=arrays["sizes"],
        counts=np.bincount(image_of[kept], minlength=len(files)),
        boxes=to_pixels(arrays["boxes"][kept], arrays["sizes"][image_of[kept]]),
        labels=np.array([number[c] for c in arrays["classes"][kept].tolist()], dtype=np.int64),
        category_ids=layout.category_ids,
        object_names=Strings([f"line {n}" for n in arrays["lines"][kept].tolist()]),
        sources=Strings(labels),
        issues=tuple(issues),
    ).select(np.asarray((arrays["sizes"] > 0).all(axis=1)))


def _known(
    layout: Layout, labels: list[str], image_of: NDArray[np.int64], arrays: Arrays
) -> tuple[NDArray[np.bool_], dict[int, str], list[Issue]]:
    """Return which objects' class has a name, the names by id, and issues of the others."""
    ids = arrays["classes"]
    names = layout.names
    if names is None:  # nothing names the classes: they are called by their numbers
        names = {i: str(i) for i in range(int(ids.max(initial=-1)) + 1)} if ids.max(initial=-1) < 10**4 else {}
    kept = np.isin(ids, list(names))
    last = f"the classes are 0 to {max(names)}" if names else "there are no classes"
    issues = [
        Issue("unknown class", labels[image_of[j]], f"line {arrays['lines'][j]}", f"class {ids[j]}, {last}")
        for j in np.flatnonzero(~kept).tolist()
    ]
    return kept, names, issues


def _image_ids(files: list[str]) -> list[str]:
    """Return the images' paths below the folder that all are in, without extension."""
    base = os.path.commonpath([os.path.dirname(f) or "." for f in files]) if files else ""
    return [os.path.splitext(f[len(base) :].lstrip("/") if base != "." else f)[0] for f in files]


def _conventions(name: str, boxes: NDArray[np.float64]) -> list[Issue]:
    """Return an issue of a whole set whose boxes look like pixels, or like corners."""
    if not len(boxes):
        return []
    with np.errstate(over="ignore", invalid="ignore"):
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        if np.median(np.abs(boxes).max(axis=1)) > 2:
            first = ", ".join(f"{v:g}" for v in (*centres[0], *sizes[0]))
            found = f"most lie beyond 1 (the first is {first}): expected {_BOXES}, divide them by the image's size"
            return [Issue("boxes look like pixels", name, None, found)]
        beyond = int(((boxes < -1e-6) | (boxes > 1 + 1e-6)).any(axis=1).sum())
        as_corners = ((sizes > centres) & (sizes <= 1 + 1e-6) & (centres >= -1e-6)).all()
    if as_corners and beyond >= max(2, 0.1 * len(boxes)):
        found = f"read as {_BOXES} {beyond} of {len(boxes)} leave the image, read as x1, y1, x2, y2 none would"
        return [Issue("boxes look like x1, y1, x2, y2", name, None, found)]
    return []


def _read(files: list[str], labels: list[str], keypoints: int) -> Arrays:
    """Return the sizes of images, and the rows of label files."""
    sizes, issues = read_sizes(files)
    found = in_threads(lambda path: _read_file(path, keypoints), labels)
    rows = [row for of_file, _ in found for row in of_file]
    issues += [issue for _, of_file in found for issue in of_file]
    columns = list(zip(*rows, strict=True)) or [()] * 6
    return {
        "sizes": sizes,
        "counts": np.array([len(of_file) for of_file, _ in found], dtype=np.int64),
        "classes": np.array(columns[0], dtype=np.int64),
        "boxes": np.array(columns[1:5], dtype=np.float64).reshape(4, -1).T.copy(),
        "lines": np.array(columns[5], dtype=np.int64),
        "issues": encode_issues(issues),
    }


def _read_file(path: str, keypoints: int) -> tuple[list[Row], list[Issue]]:
    """Return the rows of a label file, none where there is no file, and issues of rows that cannot be read."""
    rows: list[Row] = []
    issues: list[Issue] = []
    try:
        with open(path, "rb") as file:
            content = file.read()
        if content[:2] in _MARKS:
            content = "\n".join(read_lines(Path(path))).encode()
    except FileNotFoundError:
        return [], []
    except (OSError, DataError) as error:
        return [], [Issue("broken annotations", path, None, str(error))]
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        values = line.split()
        if not values:
            continue
        try:
            label = int(values[0]) if values[0].isdigit() and len(values[0]) < 10 else _whole(values[0])
            if len(values) == 5 or len(values) == 5 + keypoints:
                x, y, w, h = map(float, values[1:5])
                box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            elif len(values) >= 7 and len(values) % 2:
                points = [*map(float, values[1:])]
                box = (min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2]))
                box = box if np.isfinite(points).all() else (np.nan,) * 4
            else:
                raise ValueError(_columns(len(values)))
        except ValueError as error:
            shown = line[:60].decode("utf-8", "replace")
            issues.append(Issue("broken annotations", path, f"line {number}", f"{shown!r}: {error}"))
            continue
        if box[0] - box[0] + box[1] - box[1] + box[2] - box[2] + box[3] - box[3] == 0:  # finite
            rows.append((label, *box, number))
        else:
            issues.append(Issue("non-finite box", path, f"line {number}", line[:60].decode("utf-8", "replace")))
    return rows, issues


def _whole(text: bytes) -> int:
    value = float(text)
    if not value.is_integer() or not 0 <= value < 2**31:
        raise ValueError("the first value is not a class id, a whole number from 0")
    return int(value)


def _columns(count: int) -> str:
    hint = "; 6 are a detector's, with its confidence" if count == 6 else ""
    return f"{count} values, expected a class and {_BOXES}, or a class and the corners of a polygon{hint}"


def recognise(root: Path) -> tuple[list[str], str] | None:
    """Return the splits of a folder that looks like YOLO's and what tells it, None where nothing does."""
    try:
        layout = read_layout(root)
    except DataError as error:
        return ([], str(error)) if "several files name classes" in str(error) else None
    splits = find_splits(layout)
    if layout.source is not None:
        return (splits, f"{layout.source.name} names classes") if splits else None
    for split in splits:
        files, _, _ = split_files(layout, split)
        for file in files[:: max(1, len(files) // 20)][:20]:
            rows, issues = _read_file(label_file(file), 0)
            if rows and not issues:
                return splits, f"{os.path.relpath(label_file(file), root)} has rows of a class and a box"
    return None
