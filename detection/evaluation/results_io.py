"""``resdet evaluate``: anyone's detections against COCO annotations or a VOC folder."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from detection.data.annotations import DataError

_LOG = logging.getLogger(__name__)


def read_truth(path: Path) -> dict[str, Any]:
    """COCO annotations, their ids counted anew from 1: pycocotools takes an id of 0 for "unmatched".

    Raises:
        DataError: not COCO annotations, or annotations of images that it does not list.
    """
    content = _json(path)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise DataError(f"{path}: wanted COCO annotations with the lists images, annotations and categories")
    images, categories = {im["id"] for im in content["images"]}, {c["id"] for c in content["categories"]}
    annotations = []
    for i, a in enumerate(content["annotations"], 1):
        try:
            if a["image_id"] not in images or a["category_id"] not in categories:
                raise DataError(
                    f"{path}: annotation {a.get('id')} is of image {a['image_id']}, category {a['category_id']}, "
                    "which are not both listed"
                )
            width, height = a["bbox"][2:]
            annotations.append(
                {
                    "id": i,
                    "image_id": a["image_id"],
                    "category_id": a["category_id"],
                    "bbox": a["bbox"],
                    "area": a.get("area", width * height),
                    "iscrowd": a.get("iscrowd", a.get("is_crowd", 0)),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path}: annotation {i} lacks or garbles {error}; wanted image_id, category_id, bbox [x, y, w, h]"
            ) from error
    return {"images": content["images"], "annotations": annotations, "categories": content["categories"]}


def read_detections(path: Path, truth: dict[str, Any], *, by_name: bool) -> list[dict[str, Any]]:
    """COCO results in the truth's ids. A dictionary's images are matched by file name and its categories by name where it
    has them; a list's by id. Against a VOC folder (``by_name``) a list's image ids are file names or their stems, and its
    categories go by "category_name", else by number in the folder's sorted classes.

    Raises:
        DataError: another form, no known image, or categories that the truth lacks (lists both).
    """
    content = _json(path)
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path}: wanted a COCO results list, or a dictionary with annotations")
    image_of = _image_map(content, truth, by_name)
    category_of = _category_map(content, truth, path)
    results, unmatched, others = [], 0, Counter[str]()
    for i, row in enumerate(rows):
        try:
            key = _stem(row["image_id"]) if by_name and isinstance(content, list) else row["image_id"]
            image = image_of.get(key)
            label = row["category_name"] if "category_name" in row else row["category_id"]
            x, y, w, h = (float(v) for v in row["bbox"])
            score = float(row["score"])
        except KeyError as error:
            raise DataError(
                f"{path}: detection {i} lacks {error}; wanted image_id, category_id, bbox [x, y, w, h], score"
            ) from error
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: detection {i} is garbled ({error}); wanted image_id, category_id, bbox [x, y, w, h], score"
            ) from error
        if label not in category_of:
            others[str(label)] += 1
            continue
        if image is None:
            unmatched += 1
            continue
        results.append({"image_id": image, "category_id": category_of[label], "bbox": [x, y, w, h], "score": score})
    if others:
        names = ", ".join(c["name"] for c in truth["categories"])
        if sum(others.values()) == len(rows):
            raise DataError(f"{path}: no class in common; its categories are {', '.join(others)}, the truth's {names}")
        _LOG.warning(
            "%s: %d detections are of classes that the truth lacks (%s); they do not count",
            path,
            sum(others.values()),
            ", ".join(others),
        )
    if unmatched:
        _LOG.warning(
            "%s: %d of %d detections are on images that the truth does not list; they do not count",
            path,
            unmatched,
            len(rows),
        )
        if not results:
            raise DataError(
                f"{path}: no detection is on an image of the truth; ids there: {[im['id'] for im in truth['images'][:3]]}, "
                f"here: {[row['image_id'] for row in rows[:3]]}"
            )
    return results


def _image_map(content: Any, truth: dict[str, Any], by_name: bool) -> dict[Any, Any]:
    """image id of the detections -> image id of the truth; by whole file name where that is known, else by its stem."""
    listed = content.get("images") if isinstance(content, dict) else None
    named = {im["file_name"]: im["id"] for im in truth["images"] if "file_name" in im}
    stems = {_stem(name): image for name, image in named.items()}
    if listed and named and all("file_name" in im for im in listed):
        matched = {im["id"]: named.get(im["file_name"], stems.get(_stem(im["file_name"]))) for im in listed}
        known = [image for image in matched.values() if image is not None]
        if len(set(known)) < len(known):
            raise DataError(
                "file names of the detections do not tell images apart: several have one stem, as cam1/1.jpg and "
                "cam2/1.jpg; give the images the truth's whole names"
            )
        return matched
    return stems if by_name else {im["id"]: im["id"] for im in truth["images"]}


def _category_map(content: Any, truth: dict[str, Any], path: Path) -> dict[Any, Any]:
    """category id or name of the detections -> category id of the truth."""
    of_name = {c["name"]: c["id"] for c in truth["categories"]}
    if not (isinstance(content, dict) and content.get("categories")):
        return {c["id"]: c["id"] for c in truth["categories"]} | of_name
    theirs = {c["id"]: c["name"] for c in content["categories"]}
    if not set(theirs.values()) & set(of_name):
        raise DataError(
            f"no class in common:\n  {path}: {', '.join(map(str, theirs.values()))}\n  the truth: {', '.join(of_name)}"
        )
    return {i: of_name[name] for i, name in theirs.items() if name in of_name} | of_name


def _stem(name: Any) -> str:
    """The file name without folders and extension."""
    text = str(name).replace("\\", "/").rpartition("/")[2]
    base, dot, extension = text.rpartition(".")
    return base if dot and extension.isalnum() and len(extension) <= 5 else text


def _json(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
