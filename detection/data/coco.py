"""Read COCO annotations: a JSON file of images, annotations and categories, and an image folder."""

import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import Annotations, DataError, Strings, first_few
from detection.data.cache import Arrays, cached, decode_json, encode_json, file_stamp
from detection.data.image import UnreadableImage, image_size

_LOG = logging.getLogger(__name__)


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
    """Return the candidate folder that has most of the images ``names``.

    Raises:
        DataError: no folder has any; lists the folders.
    """
    candidates = image_folders(root, split, annotations)
    counts = {folder: sum((folder / n).is_file() for n in names) for folder in candidates}
    best = max(counts, key=lambda folder: counts[folder])
    if not counts[best]:
        tried = ", ".join(str(f) for f in dict.fromkeys(candidates))
        raise DataError(f"{annotations}: none of its images (the first is {names[0]}) found in {tried}")
    return best


def read_coco(root: str | Path, split: str) -> Annotations:
    """Read one split.

    Images without a file are skipped, with a warning that counts them. ``is_crowd`` is read as ``iscrowd``; ids may
    start at 0.

    Args:
        root: the dataset's folder.
        split: as for :func:`annotation_file`.

    Raises:
        DataError: no annotation file, no images, no categories, or entries without required fields; names the file.
    """
    root = Path(root)
    path = annotation_file(root, split)
    arrays = cached(str(path.resolve()), file_stamp(path), lambda: _read_arrays(path))
    return _to_records(root, split, path, arrays)


def _read_arrays(path: Path) -> Arrays:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(content, key), list)]
    if missing:
        raise DataError(f"{path}: not COCO annotations, missing the lists {', '.join(missing)}")
    try:
        return _flatten(path, content)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: an entry has a missing or invalid field: {error}; expected images with id, file_name, height, "
            "width and annotations with image_id, category_id, bbox [x, y, w, h]"
        ) from error


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


def _flatten(path: Path, content: dict[str, Any]) -> Arrays:
    """Return the whole content as flat arrays, objects ordered by image; image files are not looked up."""
    categories = sorted(content["categories"], key=lambda c: c["id"])
    label_of = {c["id"]: k + 1 for k, c in enumerate(categories)}
    if not categories:
        raise DataError(f"{path}: no classes, the list of categories is empty")
    images = sorted(content["images"], key=lambda image: image["id"])
    if not images:
        raise DataError(f"{path}: no images")
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    if len(by_image) < len(images):
        duplicate = next(a["id"] for a, b in itertools.pairwise(images) if a["id"] == b["id"])
        raise DataError(f"{path}: duplicate image id {duplicate!r}, its annotations are ambiguous")
    unmatched = 0
    for annotation in content["annotations"]:
        if annotation["category_id"] not in label_of:
            raise DataError(
                f"{path}: an annotation has category_id {annotation['category_id']}, the categories are {list(label_of)}"
            )
        by_image.get(annotation["image_id"], []).append(annotation)
        unmatched += annotation["image_id"] not in by_image
    flat = [annotation for image in images for annotation in by_image[image["id"]]]
    xywh = np.array([a["bbox"] for a in flat], dtype=np.float64).reshape(-1, 4)
    metadata = {
        "classes": [str(c["name"]) for c in categories],
        "category_ids": [int(c["id"]) for c in categories],
        "image_ids": [image["id"] for image in images],
        "files": [file_name(image["file_name"]) for image in images],
        "unmatched": unmatched,
    }
    return {
        "text": encode_json(metadata),
        "sizes": np.array([_annotated_size(image) for image in images], dtype=np.int64).reshape(-1, 2),
        "counts": np.array([len(by_image[image["id"]]) for image in images], dtype=np.int64),
        "boxes": np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1),
        "labels": np.array([label_of[a["category_id"]] for a in flat], dtype=np.int64),
        "areas": np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in flat], dtype=np.float64),
        "crowd": np.array([bool(a.get("iscrowd", a.get("is_crowd", 0))) for a in flat], dtype=bool),
    }


def _to_records(root: Path, split: str, path: Path, arrays: Arrays) -> Annotations:
    """Return the images that have a file, with their objects."""
    metadata = decode_json(arrays["text"])
    if metadata["unmatched"]:
        _LOG.warning("%s: %d annotations have an image_id that is not listed", path, metadata["unmatched"])
    names = metadata["files"]
    folder = image_folder(root, split, path, names[:50])
    present, sizes = _file_exists(names, folder, path), arrays["sizes"].copy()
    for k in np.flatnonzero(present & (sizes <= 0).any(axis=1)).tolist():  # no size in the JSON: read the file's
        try:
            sizes[k] = image_size(folder / names[k])
        except (UnreadableImage, OSError) as error:
            _LOG.warning("%s; skipped: %s has no size for it either", error, path)
            present[k] = False
    objects = np.repeat(present, arrays["counts"])
    rows = np.flatnonzero(present).tolist()
    if not rows:
        raise DataError(f"{path}: no image has a size, neither in the annotations nor in its file")
    return Annotations(
        name=str(path),
        classes=tuple(metadata["classes"]),
        category_ids=tuple(metadata["category_ids"]),
        image_ids=[metadata["image_ids"][i] for i in rows],
        files=Strings([str(folder / names[i]) for i in rows]),
        sizes=sizes[present],
        offsets=np.cumsum([0, *arrays["counts"][present].tolist()], dtype=np.int64),
        boxes=arrays["boxes"][objects],
        labels=arrays["labels"][objects],
        areas=arrays["areas"][objects],
        crowd=arrays["crowd"][objects],
        difficult=np.zeros(int(objects.sum()), dtype=bool),
    )


def _file_exists(names: list[str], folder: Path, path: Path) -> NDArray[np.bool_]:
    """Return bool [N], True for the images that exist; lists the folder once, which is faster than a stat per file."""
    listed = set(os.listdir(folder))
    present = np.array([name in listed or (folder / name).is_file() for name in names], dtype=bool)
    missing = [names[i] for i in np.flatnonzero(~present).tolist()]
    if len(missing) == len(names):
        raise DataError(f"{path}: none of its {len(names)} images found in {folder} (the first is {missing[0]})")
    if missing:
        _LOG.warning(
            "%s: %d of %d images not found in %s, skipped: %s",
            path,
            len(missing),
            len(names),
            folder,
            first_few(missing),
        )
    return present


def file_name(name: Any) -> str:
    """Return a valid file name unchanged.

    Raises:
        ValueError: not a string, empty, or with a null byte.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"file_name {name!r}")
    return name


def _annotated_size(image: dict[str, Any]) -> tuple[int, int]:
    """Return an image entry's (height, width), or (0, 0) where one is missing."""
    height, width = image.get("height") or 0, image.get("width") or 0
    return (int(height), int(width)) if height > 0 and width > 0 else (0, 0)
