"""Read external detections, in COCO's results format, for ``resdet evaluate``."""

import json
import logging
import math
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import DataError, beyond_unless_corners
from detection.data.image import SUFFIXES

_LOG = logging.getLogger(__name__)
_EXPECTED = "expected image_id, category_id, bbox [x, y, width, height], score"


def read_detections(path: Path, ground_truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Read COCO results and convert their ids to those of the ground truth.

    A dictionary with images and categories is matched by file names and class names, a list by ids. An id also matches as a
    number in quotes, and an image's as its file name or the name without extension. Categories
    are matched by "category_name" where a row has it: VOC folders have no category ids but the numbers of their sorted
    classes.

    Args:
        path: a COCO results list, or a dictionary with annotations.
        ground_truth: COCO annotations.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: another format, a row with a missing, invalid or non-finite value (names file, row, key and value), no
            image in common, or no class in common (lists both).
    """
    content = _json(path)
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a COCO results list, or a dictionary with annotations")
    image_of = _image_map(content, ground_truth, path)
    category_of = _category_map(content, ground_truth, path)
    results, unmatched_images, unknown_classes = [], list[Any](), Counter[str]()
    for i, row in enumerate(rows):
        image, label, box, score = _fields(row, f"{path}: detection {i}")
        if label not in category_of:
            unknown_classes[str(label)] += 1
        elif image not in image_of and _stem(image) not in image_of:
            unmatched_images.append(image)
        else:
            image = image_of[image] if image in image_of else image_of[_stem(image)]
            results.append({"image_id": image, "category_id": category_of[label], "bbox": box, "score": score})
    if unknown_classes:
        _report_unknown_classes(unknown_classes, len(rows), ground_truth, path)
    if unmatched_images:
        _LOG.warning(
            "%s: %d of %d detections are on images that are not in the ground truth; they are ignored",
            path,
            len(unmatched_images),
            len(rows),
        )
        if not results:
            raise DataError(
                f"{path}: no detection is on an image of the ground truth; image ids of the ground truth: "
                f"{[im['id'] for im in ground_truth['images'][:3]]}, of the detections: {unmatched_images[:3]}"
            )
    if results and (doubt := convention_doubt(results, ground_truth)):
        _LOG.warning("%s: %s", path, doubt)
    return results


def _fields(row: Any, where: str) -> tuple[Any, Any, list[float], float]:
    """Return image id, category, box and score of a row.

    Raises:
        DataError: names the row, the key and the value.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where} is {reprlib.repr(row)}, {_EXPECTED}")
    for key in ("image_id", "bbox", "score"):
        if key not in row:
            raise DataError(f"{where} has no {key!r}; {_EXPECTED}")
    label_key = "category_name" if "category_name" in row else "category_id"
    if label_key not in row:
        raise DataError(f"{where} has no 'category_id'; {_EXPECTED}")
    for key in ("image_id", label_key):
        if not isinstance(row[key], str | int | float) or isinstance(row[key], bool):
            raise DataError(f"{where} is invalid: {key} {reprlib.repr(row[key])} is neither a number nor a text")
    bbox = row["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4:
        length = f" has {len(bbox)} values" if isinstance(bbox, list) else ""
        raise DataError(f"{where} is invalid: bbox {reprlib.repr(bbox)}{length}; {_EXPECTED}")
    box = [_number(value, f"{where} is invalid: bbox {reprlib.repr(bbox)}") for value in bbox]
    return row["image_id"], row[label_key], box, _number(row["score"], f"{where} is invalid: score")


def _number(value: Any, where: str) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: {reprlib.repr(value)} is not a number") from None
    if not math.isfinite(number):
        raise DataError(f"{where}: {reprlib.repr(value)} is not a finite number")
    return number


def _report_unknown_classes(unknown: Counter[str], count: int, ground_truth: dict[str, Any], path: Path) -> None:
    """Warn of classes that are not in the ground truth.

    Raises:
        DataError: no class is in common.
    """
    listed = ", ".join(f"{c['id']} {c['name']}" for c in ground_truth["categories"][:10])
    if sum(unknown.values()) == count:
        names = ", ".join(c["name"] for c in ground_truth["categories"])
        raise DataError(
            f"{path}: no class in common; its categories are {', '.join(unknown)}, those of the ground truth {names}"
        )
    hint = ""
    if "0" in unknown and all(c["id"] != 0 for c in ground_truth["categories"]):
        hint = "; its category ids seem to count from 0, the ground truth's do not"
    _LOG.warning(
        "%s: %d detections have classes that are not in the ground truth (%s); they are ignored; it has %s%s",
        path,
        sum(unknown.values()),
        ", ".join(unknown),
        listed,
        hint,
    )


def convention_doubt(results: list[dict[str, Any]], ground_truth: dict[str, Any]) -> str:
    """Return what the boxes of COCO results look like where it is not [x, y, width, height] in pixels, else ""."""
    if all(0 <= value <= 1.001 for d in results for value in d["bbox"]):
        return "boxes look relative: all lie within 0..1; expected [x, y, width, height] in pixels"
    size = {im["id"]: (im.get("height") or 0, im.get("width") or 0) for im in ground_truth["images"]}
    sizes = np.array([size[d["image_id"]] for d in results])
    if not (sizes > 0).all():
        return ""
    beyond = beyond_unless_corners(np.array([d["bbox"] for d in results]), sizes)
    if not beyond:
        return ""
    return (
        f"boxes look like [x1, y1, x2, y2]: read as [x, y, width, height] {beyond} of {len(results)} leave their image, as "
        "corners none would; convert them"
    )


def _image_map(content: Any, ground_truth: dict[str, Any], path: Path) -> dict[Any, Any]:
    """Return the mapping from image ids of the detections to those of the ground truth.

    File names are matched whole, else by their stems.
    """
    listed = content.get("images") if isinstance(content, dict) else None
    id_of_name = {str(im["file_name"]): im["id"] for im in ground_truth["images"] if im.get("file_name")}
    stems = Counter(map(_stem, id_of_name))
    id_of_stem = {_stem(name): image for name, image in id_of_name.items() if stems[_stem(name)] == 1}
    if listed and id_of_name and all(isinstance(im, dict) and "file_name" in im and "id" in im for im in listed):
        matched, used = dict[Any, Any](), set[Any]()
        for im in listed:
            name, stem = str(im["file_name"]), _stem(im["file_name"])
            image = id_of_name.get(name, id_of_stem.get(stem))
            if image in used or (image is None and stems[stem] > 1):
                raise DataError(
                    f"{path}: file names of the detections are ambiguous: several have the stem {stem!r}, as cam1/1.jpg and "
                    "cam2/1.jpg have; use the full file names of the ground truth"
                )
            if image is not None:
                matched[im["id"]] = image
                used.add(image)
        return matched
    ids = {im["id"]: im["id"] for im in ground_truth["images"]}
    # ids come first: an image may be named by another one's id
    return id_of_stem | id_of_name | _in_quotes(ids) | ids


def _category_map(content: Any, ground_truth: dict[str, Any], path: Path) -> dict[Any, Any]:
    """Return the mapping from category ids and names of the detections to category ids of the ground truth."""
    id_of_name = {c["name"]: c["id"] for c in ground_truth["categories"]}
    if not (isinstance(content, dict) and content.get("categories")):
        ids = {c["id"]: c["id"] for c in ground_truth["categories"]}
        return _in_quotes(ids) | id_of_name | ids
    try:
        names = {c["id"]: c["name"] for c in content["categories"]}
    except (TypeError, KeyError) as error:
        raise DataError(f"{path}: categories need id and name: {error}") from error
    if not set(names.values()) & set(id_of_name):
        raise DataError(
            f"no class in common:\n  {path}: {', '.join(map(str, names.values()))}\n"
            f"  ground truth: {', '.join(id_of_name)}"
        )
    return {i: id_of_name[name] for i, name in names.items() if name in id_of_name} | id_of_name


def _in_quotes(ids: dict[Any, Any]) -> dict[Any, Any]:
    """Return the ids under the number in quotes, or without."""
    other: dict[Any, Any] = {}
    for key, value in ids.items():
        if isinstance(key, str):
            if key.strip().isdecimal():
                other[int(key)] = value
        else:
            other[str(key)] = value
    return other


def _stem(name: Any) -> str:
    """Return a file name without folders and an image's extension; other dots belong to the name."""
    text = str(name).replace("\\", "/").rpartition("/")[2]
    base, dot, extension = text.rpartition(".")
    return base if base and f"{dot}{extension}".lower() in SUFFIXES else text


def _json(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
