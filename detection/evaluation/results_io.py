"""Read ground truth and external detections for ``resdet evaluate``."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from detection.data.annotations import DataError

_LOG = logging.getLogger(__name__)


def read_ground_truth(path: Path) -> dict[str, Any]:
    """Read COCO annotations, with annotation ids renumbered from 1: pycocotools treats an id of 0 as unmatched.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: not COCO annotations, or an annotation of an unlisted image or category.
    """
    content = _json(path)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise DataError(f"{path}: expected COCO annotations with the lists images, annotations and categories")
    images, categories = {im["id"] for im in content["images"]}, {c["id"] for c in content["categories"]}
    annotations = []
    for i, a in enumerate(content["annotations"], 1):
        try:
            if a["image_id"] not in images or a["category_id"] not in categories:
                raise DataError(
                    f"{path}: annotation {a.get('id')} has image_id {a['image_id']} and category_id {a['category_id']}, "
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
                f"{path}: annotation {i} has a missing or invalid field: {error}; expected image_id, category_id, "
                "bbox [x, y, w, h]"
            ) from error
    return {"images": content["images"], "annotations": annotations, "categories": content["categories"]}


def read_detections(path: Path, ground_truth: dict[str, Any], *, by_name: bool) -> list[dict[str, Any]]:
    """Read COCO results and convert their ids to those of the ground truth.

    A dictionary with images and categories is matched by file names and class names, a list by ids. For a VOC folder
    (``by_name``) the image ids of a list are file names or their stems, and its categories are matched by
    "category_name", else by number in the folder's sorted classes.

    Args:
        path: a COCO results list, or a dictionary with annotations.
        ground_truth: COCO annotations.
        by_name: the ground truth is a VOC folder.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: another format, no image in common, or no class in common (lists both).
    """
    content = _json(path)
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a COCO results list, or a dictionary with annotations")
    image_of = _image_map(content, ground_truth, by_name)
    category_of = _category_map(content, ground_truth, path)
    results, unmatched_images, unknown_classes = [], 0, Counter[str]()
    for i, row in enumerate(rows):
        try:
            key = _stem(row["image_id"]) if by_name and isinstance(content, list) else row["image_id"]
            image = image_of.get(key)
            label = row["category_name"] if "category_name" in row else row["category_id"]
            x, y, w, h = (float(v) for v in row["bbox"])
            score = float(row["score"])
        except KeyError as error:
            raise DataError(
                f"{path}: detection {i} has no {error}; expected image_id, category_id, bbox [x, y, w, h], score"
            ) from error
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: detection {i} is invalid ({error}); expected image_id, category_id, bbox [x, y, w, h], score"
            ) from error
        if label not in category_of:
            unknown_classes[str(label)] += 1
            continue
        if image is None:
            unmatched_images += 1
            continue
        results.append({"image_id": image, "category_id": category_of[label], "bbox": [x, y, w, h], "score": score})
    if unknown_classes:
        names = ", ".join(c["name"] for c in ground_truth["categories"])
        if sum(unknown_classes.values()) == len(rows):
            raise DataError(
                f"{path}: no class in common; its categories are {', '.join(unknown_classes)}, those of the ground truth "
                f"{names}"
            )
        _LOG.warning(
            "%s: %d detections have classes that are not in the ground truth (%s); they are ignored",
            path,
            sum(unknown_classes.values()),
            ", ".join(unknown_classes),
        )
    if unmatched_images:
        _LOG.warning(
            "%s: %d of %d detections are on images that are not in the ground truth; they are ignored",
            path,
            unmatched_images,
            len(rows),
        )
        if not results:
            raise DataError(
                f"{path}: no detection is on an image of the ground truth; image ids of the ground truth: "
                f"{[im['id'] for im in ground_truth['images'][:3]]}, of the detections: "
                f"{[row['image_id'] for row in rows[:3]]}"
            )
    return results


def _image_map(content: Any, ground_truth: dict[str, Any], by_name: bool) -> dict[Any, Any]:
    """Return the mapping from image ids of the detections to those of the ground truth.

    File names are matched whole, else by their stems.
    """
    listed = content.get("images") if isinstance(content, dict) else None
    id_of_name = {im["file_name"]: im["id"] for im in ground_truth["images"] if "file_name" in im}
    id_of_stem = {_stem(name): image for name, image in id_of_name.items()}
    if listed and id_of_name and all("file_name" in im for im in listed):
        matched = {im["id"]: id_of_name.get(im["file_name"], id_of_stem.get(_stem(im["file_name"]))) for im in listed}
        image_ids = [image for image in matched.values() if image is not None]
        if len(set(image_ids)) < len(image_ids):
            raise DataError(
                "file names of the detections are ambiguous: several have the same stem, such as cam1/1.jpg and "
                "cam2/1.jpg; use the full file names of the ground truth"
            )
        return matched
    return id_of_stem if by_name else {im["id"]: im["id"] for im in ground_truth["images"]}


def _category_map(content: Any, ground_truth: dict[str, Any], path: Path) -> dict[Any, Any]:
    """Return the mapping from category ids and names of the detections to category ids of the ground truth."""
    id_of_name = {c["name"]: c["id"] for c in ground_truth["categories"]}
    if not (isinstance(content, dict) and content.get("categories")):
        return {c["id"]: c["id"] for c in ground_truth["categories"]} | id_of_name
    names = {c["id"]: c["name"] for c in content["categories"]}
    if not set(names.values()) & set(id_of_name):
        raise DataError(
            f"no class in common:\n  {path}: {', '.join(map(str, names.values()))}\n"
            f"  ground truth: {', '.join(id_of_name)}"
        )
    return {i: id_of_name[name] for i, name in names.items() if name in id_of_name} | id_of_name


def _stem(name: Any) -> str:
    """Return a file name without folders and extension."""
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
