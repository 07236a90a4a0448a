"""Read COCO annotations: a JSON file of images, annotations and categories, and an image folder."""

import codecs
import dataclasses
import json
import logging
import math
import os
import reprlib
from collections import Counter
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import Annotations, DataError, Strings, finish_reading
from detection.data.cache import Arrays, cached, decode_json, encode_json, file_stamp
from detection.data.files import NearNames, is_file
from detection.data.image import UnreadableImage, image_size
from detection.data.issues import Issue

_LOG = logging.getLogger(__name__)
_BOXES = "x, y, width, height"  # of an object
_LISTS = ("images", "annotations", "categories")
_SIZE_SAMPLE = 50  # images whose size is compared with the annotated one


def annotation_file(root: Path, split: str) -> Path:
    """Return the annotation file of a split.

    Args:
        root: the dataset's folder.
        split: a path under root, or the SPLIT of annotations/instances_SPLIT.json, annotations/SPLIT.json,
            SPLIT/_annotations.coco.json or SPLIT.json.

    Raises:
        DataError: no such file; lists the paths tried and the JSON files found.
    """
    candidates = [
        root / split,
        root / "annotations" / f"instances_{split}.json",
        root / "annotations" / f"{split}.json",
        root / split / "_annotations.coco.json",
        root / f"{split}.json",
    ]
    for path in candidates:
        if path.is_file():
            return path
    tried = ", ".join(str(p.relative_to(root)) for p in candidates)
    json_files = sorted(str(p.relative_to(root)) for p in [*root.glob("*.json"), *root.glob("*/*.json")])
    raise DataError(
        f"no COCO annotations for {split!r} under {root}: tried {tried}; "
        f"JSON files found: {', '.join(json_files[:8]) or 'none'}"
    )


def image_folders(root: Path, split: str, annotations: Path) -> list[Path]:
    """Return the candidate image folders of an annotation file, existing or not."""
    name = annotations.stem.removeprefix("instances_")
    return [root / split, root / name, root / "images" / name, root / "images", annotations.parent, root]


def image_folder(root: Path, split: str, annotations: Path, names: list[str]) -> Path:
    """Return the candidate folder that has most of the images, judged by 50 of ``names``.

    Raises:
        DataError: no folder has any; lists the folders.
    """
    candidates = list(dict.fromkeys(image_folders(root, split, annotations)))
    sample = names[:: max(1, len(names) // 50)][:50]
    counts = {folder: sum(is_file(folder / n) for n in sample) for folder in candidates}
    best = max(candidates, key=lambda folder: counts[folder])
    if not counts[best]:
        near = [
            hint for f in candidates if f.is_dir() and (hint := NearNames(os.listdir(f)).hint(names[0])) != names[0]
        ]
        tried = ", ".join(str(f) for f in candidates)
        raise DataError(
            f"{annotations}: none of its images (the first is {near[0] if near else names[0]}) found in {tried}"
        )
    return best


def read_coco(root: str | Path, split: str, *, strict: bool = True) -> Annotations:
    """Read one split.

    Images without a file are skipped, with a warning that counts them. ``is_crowd`` is read as ``iscrowd``, and
    ``ignore`` as ``difficult``; ids may start at 0.

    Args:
        root: the dataset's folder.
        split: as for :func:`annotation_file`.
        strict: refuse broken entries and log the issues; else all are in ``issues``, and what is broken is left out.

    Raises:
        DataError: no annotation file, images or categories, or, where strict, entries without required fields; names
            the file, the entry, the key and the value.
    """
    root = Path(root)
    path = annotation_file(root, split)
    return finish_reading(_with_images(root, split, _parse(path)), _BOXES, _LOG, strict=strict)


def read_coco_file(path: Path) -> Annotations:
    """Read an annotation file by itself, for evaluation: images are not looked up, and their sizes may be 0.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: as for :func:`read_coco`.
    """
    return finish_reading(_parse(path), _BOXES, _LOG, strict=True)


def _parse(path: Path) -> Annotations:
    """Return the content of a file, its images' names and annotated sizes as they stand there."""
    arrays = cached(str(path.resolve()), file_stamp(path), lambda: _read_arrays(path))
    metadata = decode_json(arrays["text"])
    return Annotations(
        name=str(path),
        classes=tuple(metadata["classes"]),
        category_ids=tuple(metadata["category_ids"]),
        image_ids=metadata["image_ids"],
        files=Strings.from_arrays(arrays["files"], arrays["file_ends"]),
        sizes=arrays["sizes"],
        offsets=np.cumsum([0, *arrays["counts"].tolist()], dtype=np.int64),
        boxes=arrays["boxes"],
        labels=arrays["labels"],
        areas=arrays["areas"],
        crowd=arrays["crowd"],
        difficult=arrays["difficult"],
        object_names=Strings.from_arrays(arrays["object_names"], arrays["object_name_ends"]),
        folder="",
        issues=tuple(Issue(*row) for row in metadata["issues"]),
    )


def _read_arrays(path: Path) -> Arrays:
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {_what_it_is(data) or error}") from None
    if not isinstance(content, dict):
        what = "a list, which may be detections" if isinstance(content, list) else reprlib.repr(content)
        raise DataError(f"{path}: expected COCO annotations with the lists {', '.join(_LISTS)}, got {what}")
    missing = [key for key in _LISTS if not isinstance(content.get(key), list)]
    if missing:
        raise DataError(f"{path}: not COCO annotations, missing the lists {', '.join(missing)}")
    if not content["categories"]:
        raise DataError(f"{path}: no classes, the list of categories is empty")
    if not content["images"]:
        raise DataError(f"{path}: no images")
    return _Parser(path).parse(content)


def _what_it_is(data: bytes) -> str:
    """Return what a file that is not JSON seems to be, empty where unknown."""
    for start, kind in (
        (b"PK", "a zip archive"),
        (b"\x1f\x8b", "a gzip file"),
        (b"<", "XML or HTML"),
        (b"\x89PNG", "a PNG"),
    ):
        if data.lstrip()[: len(start)] == start:
            return f"it is {kind}"
    if b"\0" in data[:100] and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is a binary file"
    return "" if data.strip() else "it is empty"


class _Broken(Exception):
    """An entry that cannot be read; the message names the key and the value."""


class _Parser:
    """Read the entries of one file into flat arrays, objects ordered by image, and collect their issues."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.issues: list[Issue] = []
        self.quoted: Counter[str] = Counter()

    def issue(self, kind: str, name: str | None, found: str = "") -> None:
        """Add an issue of the entry ``name``."""
        self.issues.append(Issue(kind, self.path, name, found))

    def parse(self, content: dict[str, Any]) -> Arrays:
        """Return the arrays that :func:`_parse` reads."""
        names = self.categories(content["categories"])
        images, broken = self.images(content["images"])
        label_of = _Ids({category: k for k, category in enumerate(names, 1)})
        row_of = _Ids({image: i for i, (image, *_) in enumerate(images)})
        objects: list[list[_Object]] = [[] for _ in images]
        for i, entry in enumerate(content["annotations"]):
            name = _entry_name(i, entry)
            try:
                fields = _dictionary(entry)
                category = self.identifier(fields, "category_id")
                image = self.identifier(fields, "image_id")
                row, label = self.look_up(row_of, image, "image_id"), self.look_up(label_of, category, "category_id")
                if label is None:
                    self.issue("unknown class", name, f"category_id {category!r}, the categories are {_listed(names)}")
                elif row is None:
                    if image not in broken:
                        self.issue("stray annotation", name, f"image_id {image!r}")
                elif (found := self.object(fields, name, label)) is not None:
                    objects[row].append(found)
            except _Broken as error:
                self.issue("broken annotations", name, str(error))
        return self.arrays(names, images, objects)

    def arrays(self, names: dict[int, str], images: "list[_Image]", objects: "list[list[_Object]]") -> Arrays:
        """Return everything as arrays."""
        flat = [o for image_objects in objects for o in image_objects]
        if count := sum(o.ignored for o in flat):
            self.issue("ignored objects", None, f"{count} with difficult or ignore")
        for key, count in self.quoted.items():
            self.issue("number in quotes", None, f"{key}: {count}")
        xywh = np.array([o.box for o in flat], dtype=np.float64).reshape(-1, 4)
        with np.errstate(over="ignore"):
            boxes = np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)
        files, file_ends = Strings([image.file for image in images]).to_arrays()
        object_names, object_name_ends = Strings([o.name for o in flat]).to_arrays()
        metadata = {
            "classes": list(names.values()),
            "category_ids": list(names),
            "image_ids": [image.id for image in images],
            "issues": [astuple(issue) for issue in self.issues],
        }
        return {
            "text": encode_json(metadata),
            "files": files,
            "file_ends": file_ends,
            "sizes": np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
            "counts": np.array([len(image_objects) for image_objects in objects], dtype=np.int64),
            "boxes": boxes,
            "labels": np.array([o.label for o in flat], dtype=np.int64),
            "areas": np.array([o.area for o in flat], dtype=np.float64),
            "crowd": np.array([o.crowd for o in flat], dtype=bool),
            "difficult": np.array([o.ignored for o in flat], dtype=bool),
            "object_names": object_names,
            "object_name_ends": object_name_ends,
        }

    def categories(self, entries: list[Any]) -> dict[int, str]:
        """Return the class names by category id, ordered by id."""
        names: dict[int, str] = {}
        for i, entry in enumerate(entries):
            name = f"categories[{i}]"
            try:
                fields = _dictionary(entry)
                category = self.identifier(fields, "id")
                if isinstance(category, str):
                    raise _Broken(f"id {category!r} is not a number")
                label = fields.get("name")
                if not isinstance(label, str | int | float) or not str(label).strip():
                    raise _Broken(f"name {reprlib.repr(label)} is not a class name" if "name" in fields else "no name")
            except _Broken as error:
                self.issue("broken annotations", name, str(error))
                continue
            label = str(label)
            if category in names:
                self.issue("repeated class", name, f"id {category} is that of {names[category]!r} and of {label!r}")
            elif label in names.values():
                other = next(key for key, value in names.items() if value == label)
                self.issue("repeated class", name, f"name {label!r} is that of the ids {other} and {category}")
            names.setdefault(category, label)
        return dict(sorted(names.items()))

    def images(self, entries: list[Any]) -> "tuple[list[_Image], set[Any]]":
        """Return the images ordered by id, and the ids of those that are broken."""
        images: dict[Any, _Image] = {}
        broken: set[Any] = set()
        first_of: dict[str, str] = {}
        for i, entry in enumerate(entries):
            name, image = f"images[{i}]", None
            try:
                fields = _dictionary(entry)
                image = self.identifier(fields, "id")
                file = _file_name(fields)
                size = self.size(fields)
            except _Broken as error:
                self.issue("broken annotations", name, str(error))
                broken |= {image} if image is not None else set()
                continue
            if image in images:
                self.issue("repeated name", name, f"duplicate image id {image!r}, its annotations are ambiguous")
                continue
            if file in first_of:
                self.issue("image listed twice", name, f"{file} (id {image!r}), also {first_of[file]}")
            first_of.setdefault(file, f"{name} (id {image!r})")
            images[image] = _Image(image, file, size)
        ordered = sorted(images.values(), key=lambda image: (isinstance(image.id, str), image.id))
        return ordered, broken

    def object(self, fields: dict[str, Any], name: str, label: int) -> "_Object | None":
        """Return an annotation's object, None where its box is not finite."""
        bbox = fields.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4:
            got = "no bbox" if "bbox" not in fields else f"bbox {reprlib.repr(bbox)}"
            if isinstance(bbox, list):
                got += f" has {len(bbox)} values"
            raise _Broken(f"{got}, expected [x, y, width, height] in pixels")
        x, y, width, height = (self.number(value, "bbox", bbox) for value in bbox)
        if not math.isfinite(x + y + width + height):
            self.issue("non-finite box", name, f"bbox {reprlib.repr(bbox)}")
            return None
        area = fields.get("area")
        area = width * height if area is None else self.number(area, "area")
        crowd = self.flag(fields.get("iscrowd", fields.get("is_crowd", 0)))
        ignored = self.flag(fields.get("difficult", 0)) or self.flag(fields.get("ignore", 0))
        return _Object(
            (x, y, width, height), label, area if math.isfinite(area) else width * height, crowd, ignored, name
        )

    def number(self, value: Any, key: str, whole: Any = None) -> float:
        """Return a number, also from a text, which is counted."""
        try:
            if type(value) is int or type(value) is float:
                return float(value)
            if isinstance(value, str):
                number = float(value)
                self.quoted[key] += 1
                return number
        except (ValueError, OverflowError):
            pass
        raise _Broken(f"{key} {reprlib.repr(value if whole is None else whole)}: {reprlib.repr(value)} is not a number")

    def identifier(self, fields: dict[str, Any], key: str) -> Any:
        """Return an id, a whole number or a text; a category's from a text too, which is counted."""
        value = fields.get(key)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if type(value) is not int and not isinstance(value, str):
            raise _Broken(
                f"no {key}" if key not in fields else f"{key} {reprlib.repr(value)}, expected a number or a text"
            )
        return value

    def look_up(self, ids: "_Ids", value: Any, key: str) -> int | None:
        """Return an id's row, also of its number in quotes, which is counted."""
        found, quoted = ids.find(value)
        if quoted:
            self.quoted[key] += 1
        return found

    def size(self, image: dict[str, Any]) -> tuple[int, int]:
        """Return an image entry's (height, width), or (0, 0) where one is missing."""
        sides = [0.0 if image.get(key) is None else self.number(image[key], key) for key in ("height", "width")]
        valid = all(0 < side < 2**31 for side in sides)
        return (int(sides[0]), int(sides[1])) if valid else (0, 0)

    def flag(self, value: Any) -> bool:
        """Return whether a 0 or 1, also in quotes, is 1."""
        return value.strip().lower() not in ("", "0", "false") if isinstance(value, str) else bool(value)


class _Image(NamedTuple):
    id: Any
    file: str
    size: tuple[int, int]


class _Object(NamedTuple):
    box: tuple[float, float, float, float]  # x, y, width, height
    label: int
    area: float
    crowd: bool
    ignored: bool
    name: str


class _Ids:
    """Rows by id, where a number and the same number in quotes are one."""

    def __init__(self, rows: dict[Any, int]) -> None:
        self.rows = rows
        self.other: dict[Any, int] = {}
        for key, row in rows.items():
            if isinstance(key, int):
                self.other[str(key)] = row
            elif key.strip().isdecimal():
                self.other[int(key)] = row

    def find(self, key: Any) -> tuple[int | None, bool]:
        """Return an id's row, None where there is none, and whether quotes made the difference."""
        if key in self.rows:
            return self.rows[key], False
        row = self.other.get(key)
        return row, row is not None


def _dictionary(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise _Broken(f"{reprlib.repr(entry)}, expected an object with fields")
    return entry


def _entry_name(i: int, entry: Any) -> str:
    """Return an entry's id as text, else its place."""
    name = entry.get("id") if isinstance(entry, dict) else None
    return str(name) if isinstance(name, int | str) and str(name) else f"annotations[{i}]"


def _listed(names: dict[int, str]) -> str:
    return ", ".join(f"{key} {name}" for key, name in list(names.items())[:5]) + (", …" if len(names) > 5 else "")


def _file_name(fields: dict[str, Any]) -> str:
    name = fields.get("file_name")
    if "file_name" not in fields and isinstance(fields.get("coco_url"), str):
        raise _Broken(f"no file_name; LVIS gives coco_url {fields['coco_url']!r} alone: add file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise _Broken(
            "no file_name" if "file_name" not in fields else f"file_name {reprlib.repr(name)} is not a file's name"
        )
    return name


def _with_images(root: Path, split: str, parsed: Annotations) -> Annotations:
    """Return the images that have a file and a size, with their objects."""
    path, names = Path(parsed.name), list(parsed.files)
    if not names:
        return parsed
    folder = image_folder(root, split, path, names)
    listed = set(os.listdir(folder))
    present = np.array([name in listed or is_file(folder / name) for name in names], dtype=bool)
    if not present.any():
        raise DataError(
            f"{path}: none of its {len(names)} images found in {folder} (the first is {NearNames(listed).hint(names[0])})"
        )
    issues = list(parsed.issues)
    if not present.all():
        near = NearNames(listed)
        issues += [
            Issue("missing image", parsed.name, None, f"{near.hint(n)}, in {folder}")
            for n in (names[k] for k in np.flatnonzero(~present).tolist())
        ]
    sizes = _true_sizes(parsed, folder, present, issues)
    present &= (sizes > 0).all(axis=1)
    if not present.any():
        raise DataError(f"{path}: no image has a size, neither in the annotations nor in its file")
    files = Strings([f"{folder}/{name}" for name in names])
    return dataclasses.replace(parsed, files=files, sizes=sizes, folder=str(folder), issues=tuple(issues)).select(
        present
    )


def _true_sizes(
    parsed: Annotations, folder: Path, present: NDArray[np.bool_], issues: list[Issue]
) -> NDArray[np.int64]:
    """Return the sizes int64 [N, 2] of the images, 0 for an unreadable one that has none in the annotations.

    Annotated sizes are taken as true, unless they are missing, a box crosses their edge by more than a pixel, or one of a
    sample of images has another size: a file's header is then read. Reading all would take minutes for a large set.
    """
    sizes = parsed.sizes.copy()
    limits = np.repeat(sizes[:, ::-1], np.diff(parsed.offsets), axis=0) + 1
    crossing = np.zeros(len(parsed), dtype=bool)
    crossing[parsed.image_of()[(parsed.boxes[:, 2:] > limits).any(axis=1)]] = True
    unknown = (sizes <= 0).any(axis=1)
    sample = np.zeros(len(parsed), dtype=bool)
    sample[np.linspace(0, len(parsed) - 1, min(_SIZE_SAMPLE, len(parsed)), dtype=np.int64)] = True
    first = np.flatnonzero(present & (crossing | unknown | sample)).tolist()
    wrong = _read_sizes(parsed, folder, first, sizes, issues)
    if any(sample[k] for k in wrong):
        rest = np.flatnonzero(present & ~(crossing | unknown | sample)).tolist()
        _read_sizes(parsed, folder, rest, sizes, issues)
    return sizes


def _read_sizes(
    parsed: Annotations, folder: Path, rows: list[int], sizes: NDArray[np.int64], issues: list[Issue]
) -> list[int]:
    """Set the sizes of images from their files' headers; return the rows whose annotated size was another one."""
    wrong = []
    for k in rows:
        annotated = int(sizes[k, 0]), int(sizes[k, 1])
        try:
            size = image_size(folder / parsed.files[k])
        except (UnreadableImage, OSError) as error:
            if min(annotated) <= 0:
                issues.append(
                    Issue(
                        "unreadable image",
                        str(folder / parsed.files[k]),
                        None,
                        f"{error}; {parsed.name} has no size for it either",
                    )
                )
            continue
        sizes[k] = size
        if min(annotated) > 0 and size != annotated:
            wrong.append(k)
            found = f"{annotated[0]}x{annotated[1]}, the image is {size[0]}x{size[1]}"
            issues.append(Issue("another size stated", parsed.source(k), None, found))
    return wrong
