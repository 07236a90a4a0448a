"""COCO annotations: a JSON of images, annotations and categories, and the folder of its pictures."""

import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import DataError, Records, Strings, first_few
from detection.data.cache import Arrays, kept, stamp, text_array, text_of
from detection.data.image import UnreadableImage, image_size

_LOG = logging.getLogger(__name__)


def annotation_file(root: Path, split: str) -> Path:
    """The JSON of a split: a path under root, or annotations/instances_SPLIT.json, or SPLIT/_annotations.coco.json.

    Raises:
        DataError: none is there; lists what was looked for and the JSON files that are.
    """
    tried = [
        root / split,
        root / "annotations" / f"instances_{split}.json",
        root / "annotations" / f"{split}.json",
        root / split / "_annotations.coco.json",
        root / f"{split}.json",
    ]
    for path in tried:
        if path.is_file():
            return path
    found = sorted(str(p.relative_to(root)) for p in [*root.glob("*.json"), *root.glob("*/*.json")])
    raise DataError(
        f"no COCO annotations for {split!r} under {root}: looked for {', '.join(str(p.relative_to(root)) for p in tried)}; "
        f"JSON files there: {', '.join(found[:8]) or 'none'}"
    )


def image_folders(root: Path, split: str, annotations: Path) -> list[Path]:
    """Where the pictures of a JSON may be, there or not."""
    name = annotations.stem.removeprefix("instances_")
    return [root / split, root / name, root / "images" / name, root / "images", annotations.parent, root]


def image_folder(root: Path, split: str, annotations: Path, names: list[str]) -> Path:
    """The folder that holds most of the first names of a JSON.

    Raises:
        DataError: none holds any; lists the folders.
    """
    tried = image_folders(root, split, annotations)
    held = {folder: sum((folder / n).is_file() for n in names) for folder in tried}
    best = max(held, key=lambda folder: held[folder])
    if not held[best]:
        places = ", ".join(str(f) for f in dict.fromkeys(tried))
        raise DataError(f"{annotations}: its pictures (the first is {names[0]}) are in none of {places}")
    return best


def read_coco(root: str | Path, split: str) -> Records:
    """Reads one split.

    Images that the JSON names and the folder lacks are left out with a warning that counts them. ``is_crowd`` is read as
    ``iscrowd``; ids may begin at 0.

    Raises:
        DataError: no JSON, no pictures, no categories, or entries without their keys; names the file.
    """
    root = Path(root)
    path = annotation_file(root, split)
    arrays = kept(str(path.resolve()), stamp(path), lambda: _read(path))
    return _records(root, split, path, arrays)


def _read(path: Path) -> Arrays:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(content, key), list)]
    if missing:
        raise DataError(f"{path}: not COCO annotations, it lacks the lists {', '.join(missing)}")
    try:
        return _index(path, content)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: an entry lacks or garbles {error}; wanted images with id, file_name, height, width and "
            "annotations with image_id, category_id, bbox [x, y, w, h]"
        ) from error


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


def _index(path: Path, content: dict[str, Any]) -> Arrays:
    """All that the file says, image by image, whether or not the pictures are there."""
    categories = sorted(content["categories"], key=lambda c: c["id"])
    label_of = {c["id"]: k + 1 for k, c in enumerate(categories)}
    if not categories:
        raise DataError(f"{path}: no classes, its list of categories is empty")
    images = sorted(content["images"], key=lambda image: image["id"])
    if not images:
        raise DataError(f"{path}: no images")
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    if len(by_image) < len(images):
        twice = next(a["id"] for a, b in itertools.pairwise(images) if a["id"] == b["id"])
        raise DataError(f"{path}: two images have the id {twice!r}, so that annotations could be of either")
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
    about = {
        "classes": [str(c["name"]) for c in categories],
        "category_ids": [int(c["id"]) for c in categories],
        "image_ids": [image["id"] for image in images],
        "files": [text(image["file_name"]) for image in images],
        "unmatched": unmatched,
    }
    return {
        "text": text_array(about),
        "sizes": np.array([_stated_size(image) for image in images], dtype=np.int64).reshape(-1, 2),
        "counts": np.array([len(by_image[image["id"]]) for image in images], dtype=np.int64),
        "boxes": np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1),
        "labels": np.array([label_of[a["category_id"]] for a in flat], dtype=np.int64),
        "areas": np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in flat], dtype=np.float64),
        "crowd": np.array([bool(a.get("iscrowd", a.get("is_crowd", 0))) for a in flat], dtype=bool),
    }


def _records(root: Path, split: str, path: Path, arrays: Arrays) -> Records:
    """The images whose pictures are there, with their objects."""
    about = text_of(arrays["text"])
    if about["unmatched"]:
        _LOG.warning("%s: %d annotations belong to images that it does not list", path, about["unmatched"])
    names = about["files"]
    folder = image_folder(root, split, path, names[:50])
    there, sizes = _present(names, folder, path), arrays["sizes"].copy()
    for k in np.flatnonzero(there & (sizes <= 0).any(axis=1)).tolist():  # the JSON lacks them: the picture's own
        try:
            sizes[k] = image_size(folder / names[k])
        except (UnreadableImage, OSError) as error:
            _LOG.warning("%s; left out: its size is not in %s either", error, path)
            there[k] = False
    own = np.repeat(there, arrays["counts"])
    rows = np.flatnonzero(there).tolist()
    if not rows:
        raise DataError(f"{path}: none of its images has a size, there or in its file")
    return Records(
        name=str(path),
        classes=tuple(about["classes"]),
        category_ids=tuple(about["category_ids"]),
        image_ids=[about["image_ids"][i] for i in rows],
        files=Strings([str(folder / names[i]) for i in rows]),
        sizes=sizes[there],
        offsets=np.cumsum([0, *arrays["counts"][there].tolist()], dtype=np.int64),
        boxes=arrays["boxes"][own],
        labels=arrays["labels"][own],
        areas=arrays["areas"][own],
        crowd=arrays["crowd"][own],
        difficult=np.zeros(int(own.sum()), dtype=bool),
    )


def _present(names: list[str], folder: Path, path: Path) -> NDArray[np.bool_]:
    """Which pictures exist; one listing of the folder instead of a question a file."""
    listed = set(os.listdir(folder))
    there = np.array([name in listed or (folder / name).is_file() for name in names], dtype=bool)
    absent = [names[i] for i in np.flatnonzero(~there).tolist()]
    if len(absent) == len(names):
        raise DataError(f"{path}: none of its {len(names)} images is in {folder} (the first is {absent[0]})")
    if absent:
        _LOG.warning(
            "%s: %d of %d images are not in %s and are left out: %s",
            path,
            len(absent),
            len(names),
            folder,
            first_few(absent),
        )
    return there


def text(name: Any) -> str:
    """A file's name; raises ValueError for what cannot be one."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"the file_name {name!r}")
    return name


def _stated_size(image: dict[str, Any]) -> tuple[int, int]:
    """Height and width as the JSON has them; zeros where it lacks one."""
    height, width = image.get("height") or 0, image.get("width") or 0
    return (int(height), int(width)) if height > 0 and width > 0 else (0, 0)
