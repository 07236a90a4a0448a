"""Read labelme's JSON files, each beside its image: rectangles, and polygons, circles and masks, whose enclosing box is
taken."""

import json
import logging
import math
import os
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import Annotations, DataError, finish_reading
from detection.data.cache import Arrays, cached
from detection.data.files import Stamp, in_threads, stamp, walk
from detection.data.image import SUFFIXES
from detection.data.issues import Issue
from detection.data.readers.collect import Collected, decode_issues, digest, encode_issues, stem

_LOG = logging.getLogger(__name__)
_BOXES = "points [[x, y], …] in pixels"
_ENCLOSED = ("rectangle", "polygon", "mask", "quadrangle", "rotation")  # shapes that their points enclose
_POINTS = ("point", "points", "line", "linestrip", "linestripe")  # shapes that have no area
Shape = tuple[str, float, float, float, float, str]  # class, box, number


def read_labelme(root: str | Path, split: str, *, strict: bool = True) -> Annotations:
    """Read one split. Classes are those that occur, sorted. An image without a JSON file is skipped.

    Args:
        root: the dataset's folder.
        split: a sub-folder with images and their JSON files, also in sub-folders of its own; "." is the root itself.
        strict: refuse broken files and log the issues; else all are in ``issues``, and what is broken is left out.

    Raises:
        DataError: no such folder, or no JSON file; where strict, files that cannot be read; names the file and the shape.
    """
    folder = _folder(Path(root), split)
    names = [*walk(folder)]
    texts = [name for name in names if name.lower().endswith(".json")]
    images = {stem(name): name for name in reversed(names) if name.lower().endswith(SUFFIXES)}
    if not texts:
        raise DataError(
            f"{folder}: no JSON file of labelme's; splits found: {', '.join(find_splits(Path(root))) or 'none'}"
        )
    files = [f"{folder}/{name}" for name in texts]
    stamps = in_threads(stamp, files)
    arrays = cached(f"labelme {folder.resolve()}", digest((files, stamps)), lambda: _read(files))
    contents = json.loads(arrays["shapes"].tobytes())
    collected = Collected(str(folder), issues=decode_issues(arrays["issues"]), sources=[])
    for name, file, content in zip(texts, files, contents, strict=True):
        if content is None:
            continue
        beside = images.pop(os.path.splitext(name)[0], None)
        stated = os.path.normpath(os.path.join(os.path.dirname(name), content["file"])).replace(os.sep, "/")
        image = beside or stated
        if image in collected.images:
            collected.issues.append(Issue("repeated name", file, None, image))
            continue
        row = collected.image(image)
        assert collected.sources is not None
        collected.sources.append(file)
        if content["size"] is not None:
            collected.state(row, tuple(content["size"]))
        for label, *box, number in content["shapes"]:
            collected.add(row, label, box, number)
    for image in sorted(images.values()):
        if image not in collected.images:
            text = f"{folder}/{os.path.splitext(image)[0]}.json"
            collected.issues.append(Issue("missing annotations", str(folder), None, text))
    annotations = collected.build(folder, None)
    if not len(annotations) and not any(issue.refuses for issue in annotations.issues):
        first = f": {annotations.issues[0]}" if annotations.issues else ""
        raise DataError(f"{folder}: no image exists together with its JSON file{first}")
    return finish_reading(annotations, _BOXES, _LOG, strict=strict)


def _folder(root: Path, split: str) -> Path:
    folder = root if split in ("", ".") else root / split
    inside = not Path(split).is_absolute() and ".." not in Path(split).parts and "\0" not in split
    if not inside or not folder.is_dir():
        found = ", ".join(find_splits(root)) or "none"
        raise DataError(f"{root}: no folder {split!r} with images and labelme's JSON files; splits found: {found}")
    return folder


def source_stamps(root: Path, split: str) -> list[Stamp]:
    """Return the stamps of what a split is read from, as a cache key."""
    folder = _folder(root, split)
    return in_threads(stamp, [str(folder), *(f"{folder}/{name}" for name in walk(folder))])


def _read(files: list[str]) -> Arrays:
    """Return the content of JSON files: for each its image's name, stated size and shapes, null where it cannot be read."""
    found = in_threads(_read_file, files)
    text = json.dumps([content for content, _ in found]).encode()
    issues = [issue for _, of_file in found for issue in of_file]
    return {"shapes": np.frombuffer(text, dtype=np.uint8), "issues": encode_issues(issues)}


def _read_file(path: str) -> tuple[dict[str, Any] | None, list[Issue]]:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        return None, [Issue("broken annotations", path, None, f"not valid JSON: {error}")]
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(shapes, list):
        return None, [Issue("broken annotations", path, None, "expected labelme's JSON with the list shapes")]
    issues: list[Issue] = []
    found: list[Shape] = []
    skipped = Counter[str]()
    for number, shape in enumerate(shapes, 1):
        try:
            box = _box(shape)
            label = shape["label"]
            if not isinstance(label, str | int) or isinstance(label, bool) or not str(label).strip():
                raise ValueError(f"label {reprlib.repr(label)} is not a class name")
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            issues.append(Issue("broken annotations", path, str(number), reason))
            continue
        if box is None:
            skipped[str(shape["shape_type"])] += 1
        elif not all(map(math.isfinite, box)):
            issues.append(Issue("non-finite box", path, str(number), str([*box])))
        else:
            found.append((str(label), *box, str(number)))
    issues += [Issue("shape without a box", path, None, f"{kind}: {count}") for kind, count in skipped.items()]
    name, size = content.get("imagePath"), (content.get("imageHeight"), content.get("imageWidth"))
    sound = all(type(side) is int and 0 < side < 2**31 for side in size)
    named = isinstance(name, str) and name and "\0" not in name
    file_name = name.replace("\\", "/") if named and isinstance(name, str) else f"{Path(path).stem}.jpg"
    return {"file": file_name, "size": list(size) if sound else None, "shapes": found}, issues


def _box(shape: Any) -> tuple[float, float, float, float] | None:
    """Return the box that encloses a shape, None for one without area.

    Raises:
        KeyError, TypeError, ValueError: not a shape.
    """
    if not isinstance(shape, dict):
        raise TypeError(f"{reprlib.repr(shape)}, expected a shape with label and points")
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    shape["label"]  # before the points: a message names what is missing first
    if kind in _POINTS:
        return None
    if kind not in (*_ENCLOSED, "circle", "ellipse"):
        raise ValueError(f"shape_type {reprlib.repr(kind)} is not known")
    pairs = isinstance(points, list) and all(
        isinstance(p, list) and len(p) == 2 and all(type(v) in (int, float) for v in p) for p in points
    )
    if not pairs or len(points) < 2:
        raise ValueError(f"points {reprlib.repr(points)}, expected {_BOXES}")
    try:
        xs, ys = [float(x) for x, _ in points], [float(y) for _, y in points]
        if kind == "circle":  # its centre, and a point on it
            radius = math.hypot(xs[1] - xs[0], ys[1] - ys[0])
            if not math.isfinite(radius):
                return (math.nan,) * 4
            return xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    except OverflowError:
        raise ValueError(f"points {reprlib.repr(points)} are too large") from None
    if not all(map(math.isfinite, (*xs, *ys))):
        return (math.nan,) * 4
    return min(xs), min(ys), max(xs), max(ys)


def find_splits(root: Path) -> list[str]:
    """Return the sub-folders with labelme's files, else "." for the folder itself."""
    folders = [f.name for f in sorted(root.glob("*")) if f.is_dir() and _has_files(f)]
    return folders or (["."] if root.is_dir() and _has_files(root) else [])


def _has_files(folder: Path) -> bool:
    """Return whether one of a folder's first JSON files is labelme's."""
    files = [name for name in sorted(os.listdir(folder)) if name.lower().endswith(".json")]
    for name in files[:: max(1, len(files) // 5)][:5]:
        try:
            with (folder / name).open("rb") as file:
                content = file.read(2**20)
        except OSError:
            continue
        if (b'"shapes"' in content and b'"imagePath"' in content) or (
            b'"shapes"' in content and b'"points"' in content
        ):
            return True
    return False


def recognise(root: Path) -> tuple[list[str], str] | None:
    """Return the splits of a folder with labelme's files and what tells it, None where there are none."""
    splits = find_splits(root) if root.is_dir() else []
    return (splits, f"the JSON files in {root / splits[0]} have labelme's shapes") if splits else None
