"""Read PASCAL VOC folders (Annotations, JPEGImages, ImageSets/Main), one year or several joined.

VOC's corners are 1-based and inclusive. This module alone converts them to 0-based boxes with exclusive x2 and y2, by
subtracting 1 from xmin and ymin, as detectron2 does.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, parse

from detection.data.annotations import Annotations, DataError, Strings, first_few
from detection.data.cache import Arrays, cached, decode_json, encode_json, file_stamp
from detection.data.image import SUFFIXES, UnreadableImage, image_size

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VocObject:
    """One object of an XML file: class name, box xyxy (0-based, exclusive x2 and y2), and the difficult flag."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def read_voc(root: str | Path, split: str, classes: Sequence[str] | None = None) -> Annotations:
    """Read one or several image sets.

    Images without XML and names without an image are skipped, with a warning that counts them.

    Args:
        root: a year's folder (with ImageSets), or the parent of such folders (VOC2007, VOC2012).
        split: "trainval", or "VOC2007/trainval+VOC2012/trainval"; a name without year joins the sets of all years that
            have it.
        classes: class names in order; None takes the names in the annotations, sorted.

    Raises:
        DataError: no such image set, no images, no classes, or a class not in ``classes``; lists what exists.
    """
    root = Path(root)
    names, files, sizes, objects = [], [], [], []
    for year, image_set in image_sets(root, split):
        for name, file, size, image_objects in _read_image_set(year, image_set):
            names.append(name)
            files.append(file)
            sizes.append(size)
            objects.append(image_objects)
    if not files:
        raise DataError(f"{root}: no image of image set {split!r} exists together with its XML")
    if len(set(names)) < len(names):
        raise DataError(
            f"{root}: duplicate image names in {split!r}, e.g. {next(n for n in names if names.count(n) > 1)}"
        )
    flat = [o for image_objects in objects for o in image_objects]
    used_names = {o.name for o in flat}
    class_names = tuple(sorted(used_names)) if classes is None else tuple(classes)
    if not class_names:
        raise DataError(f"{root}: no classes, the {len(files)} XML files of {split!r} have no objects")
    if unknown := used_names - set(class_names):
        raise DataError(
            f"{root}: {split!r} has the classes {', '.join(sorted(unknown))}, which are not among {', '.join(class_names)}"
        )
    boxes = np.array([o.box for o in flat], dtype=np.float64).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite corners, which training drops
        sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
        areas = sides[:, 0] * sides[:, 1]
    return Annotations(
        name=f"{root}:{split}",
        classes=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
        image_ids=names,
        files=Strings(files),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        offsets=np.cumsum([0, *map(len, objects)], dtype=np.int64),
        boxes=boxes,
        labels=np.array([class_names.index(o.name) + 1 for o in flat], dtype=np.int64),
        areas=areas,
        crowd=np.zeros(len(flat), dtype=bool),
        difficult=np.array([o.difficult for o in flat], dtype=bool),
    )


def read_xml(path: Path) -> list[VocObject]:
    """Return the objects of one XML file; tags may have any order, ``pose`` and ``truncated`` are optional.

    Raises:
        DataError: not XML, XML with entities, or an object without name or corners; names the file.
    """
    try:
        tree = parse(path)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(f"{path} is not valid XML, or not allowed: {error}") from error
    return [parse_object(element, path) for element in tree.iter("object")]


def parse_object(element: Element, path: Path) -> VocObject:
    """Return the object of an <object> element.

    Raises:
        DataError: no name, or a corner that is missing or not a number; names the file.
    """

    def text(tag: str) -> str:
        value = element.findtext(tag)
        if value is None or not value.strip():
            raise DataError(f"{path}: an object has no <{tag.replace('/', '><')}>")
        return value.strip()

    try:
        x1, y1, x2, y2 = (float(text(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise (
            error if isinstance(error, DataError) else DataError(f"{path}: a corner is not a number: {error}")
        ) from error
    difficult = (element.findtext("difficult") or "0").strip()
    # a degenerate box stays degenerate: the conversion must not make it one pixel wide
    box = (x1 - 1 if x2 > x1 else x1, y1 - 1 if y2 > y1 else y1, x2, y2)
    return VocObject(text("name"), box, difficult not in ("", "0"))


def year_folders(root: Path) -> list[Path]:
    """Return root itself, or else the folders under it, that have ImageSets/Main."""
    candidates = (
        [root] if (root / "ImageSets" / "Main").is_dir() else sorted([*root.glob("*"), *root.glob("VOCdevkit/*")])
    )
    return [folder for folder in candidates if (folder / "ImageSets" / "Main").is_dir()]


def image_sets(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Return (year folder, image list file) of every image set in ``split``.

    Raises:
        DataError: no such image set; lists those that exist.
    """
    result = []
    for part in split.split("+"):
        year, _, name = part.strip().rpartition("/")
        folders = [f for f in year_folders(root) if not year or f.name in (year, f"VOC{year}")]
        sets = [(f, f / "ImageSets" / "Main" / f"{name}.txt") for f in folders]
        sets = [(f, s) for f, s in sets if s.is_file()]
        if not sets:
            existing = [
                f"{f.name}/{s.stem}"
                for f in year_folders(root)
                for s in sorted((f / "ImageSets" / "Main").glob("*.txt"))
            ]
            raise DataError(
                f"{root}: no VOC image set {part.strip()!r} (ImageSets/Main/{name}.txt); "
                f"image sets found: {', '.join(existing[:8]) or 'none'}"
            )
        result += sets
    return result


def image_files(year: Path) -> dict[str, str]:
    """Return the image file names of a year folder by their stems."""
    return {Path(f).stem: f for f in sorted(os.listdir(year / "JPEGImages")) if f.lower().endswith(SUFFIXES)}


def _read_image_set(year: Path, image_set: Path) -> list[tuple[str, str, tuple[int, int], list[VocObject]]]:
    """Return name, file, (height, width) and objects of an image set's images."""
    images = image_files(year)
    names = image_names(image_set, set(images))
    no_image = [n for n in names if n not in images]
    no_xml = [n for n in names if n in images and not (year / "Annotations" / f"{n}.xml").is_file()]
    for kind, missing in (("image", no_image), ("XML", no_xml)):
        if missing:
            _LOG.warning(
                "%s: %d of %d names have no %s, skipped: %s",
                image_set,
                len(missing),
                len(names),
                kind,
                first_few(missing),
            )
    skip = {*no_image, *no_xml}
    names = [n for n in names if n not in skip]
    files = [year / "JPEGImages" / images[n] for n in names]
    xmls = [year / "Annotations" / f"{n}.xml" for n in names]
    with ThreadPoolExecutor(8) as pool:
        stamps = list(pool.map(file_stamp, (*files, *xmls)))
        cache_key = hashlib.sha256(repr((names, stamps)).encode()).hexdigest()
        # sizes come from the images: the XML's <size> is often 0x0 or wrong
        arrays = cached(
            f"{year.resolve()}:{image_set.name}",
            cache_key,
            lambda: _to_arrays(list(pool.map(_size_or_error, files)), list(pool.map(read_xml, xmls))),
            skip_if=lambda arrays: any(decode_json(arrays["text"])["faults"]),
        )
    metadata = decode_json(arrays["text"])
    for error in filter(None, metadata["faults"]):
        _LOG.warning("%s; skipped", error)
    objects = [
        VocObject(metadata["classes"][k], tuple(box), difficult)
        for k, box, difficult in zip(
            arrays["labels"].tolist(), arrays["boxes"].tolist(), arrays["difficult"].tolist(), strict=True
        )
    ]
    ends = np.cumsum(arrays["counts"]).tolist()
    rows = zip(names, files, arrays["sizes"].tolist(), metadata["faults"], arrays["counts"].tolist(), ends, strict=True)
    return [
        (name, str(file), (height, width), objects[end - count : end])
        for name, file, (height, width), error, count, end in rows
        if not error
    ]


def _size_or_error(file: Path) -> tuple[int, int] | str:
    try:
        return image_size(file)
    except UnreadableImage as error:
        return str(error)


def _to_arrays(sizes: list[tuple[int, int] | str], objects: list[list[VocObject]]) -> Arrays:
    flat = [o for image_objects in objects for o in image_objects]
    classes = sorted({o.name for o in flat})
    label = {name: k for k, name in enumerate(classes)}
    return {
        "text": encode_json({"classes": classes, "faults": [s if isinstance(s, str) else "" for s in sizes]}),
        "sizes": np.array([(0, 0) if isinstance(s, str) else s for s in sizes], dtype=np.int64).reshape(-1, 2),
        "counts": np.array([len(image_objects) for image_objects in objects], dtype=np.int64),
        "boxes": np.array([o.box for o in flat], dtype=np.float64).reshape(-1, 4),
        "labels": np.array([label[o.name] for o in flat], dtype=np.int64),
        "difficult": np.array([o.difficult for o in flat], dtype=bool),
    }


def image_names(image_set: Path, known: set[str]) -> list[str]:
    """Return the image names listed in an image set file.

    A name is the whole line where it is in ``known`` (names may contain spaces or an extension), else its first word (the
    image sets of single classes have a second column).
    """
    names = []
    for line in image_set.read_text().splitlines():
        if text := line.strip():
            candidates = (text, Path(text).stem)
            names.append(next((name for name in candidates if name in known), text.split()[0]))
    return names


def read_voc_ground_truth(folder: Path, split: str | None = None) -> dict[str, Any]:
    """Return the annotations of a VOC folder in COCO format with "difficult"; image ids are the stems of the XML files.

    Images are not needed.

    Args:
        folder: with Annotations, or the parent of year folders that have it.
        split: an image set; None reads all XML files.

    Raises:
        DataError: no annotations, no such image set, or duplicate image names.
    """
    if split is None:
        files = sorted(
            [
                *folder.glob("Annotations/*.xml"),
                *folder.glob("*/Annotations/*.xml"),
                *folder.glob("VOCdevkit/*/Annotations/*.xml"),
            ]
        )
    else:
        files = []
        for year, image_set in image_sets(folder, split):
            xmls = {path.stem: path for path in (year / "Annotations").glob("*.xml")}
            names = image_names(image_set, set(xmls))
            files += [xmls[name] for name in names if name in xmls]
            if missing := [name for name in names if name not in xmls]:
                _LOG.warning(
                    "%s: %d of %d names have no XML, skipped: %s", image_set, len(missing), len(names), missing[0]
                )
    if not files:
        raise DataError(f"{folder}: no VOC annotations found (Annotations/*.xml in it or in its year folders)")
    objects = {path.stem: read_xml(path) for path in files}
    if len(objects) < len(files):
        raise DataError(f"{folder}: duplicate image names over its years; give one image set, or one year's folder")
    classes = sorted({o.name for image_objects in objects.values() for o in image_objects})
    category_of = {name: i for i, name in enumerate(classes, 1)}
    annotations: list[dict[str, Any]] = []
    for image, image_objects in objects.items():
        for o in image_objects:
            x1, y1, x2, y2 = o.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category_of[o.name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": max(x2 - x1, 0) * max(y2 - y1, 0),
                    "iscrowd": int(o.difficult),
                    "difficult": int(o.difficult),
                }
            )
    return {
        "images": [{"id": name, "file_name": name} for name in objects],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in category_of.items()],
    }
