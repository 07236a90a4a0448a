"""Read COCO annotations: a JSON file of images, annotations and categories, and an image folder."""

import codecs
import dataclasses
import json
import logging
import os
import reprlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import Annotations, DataError, Strings, finish_reading
from detection.data.cache import Arrays, cached, decode_json, file_stamp
from detection.data.files import NearNames, is_file
from detection.data.image import UnreadableImage, image_size
from detection.data.issues import Issue
from detection.data.readers.coco_entries import CocoParser

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
    return CocoParser(path).parse(content)


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
