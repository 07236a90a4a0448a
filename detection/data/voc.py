"""PASCAL VOC folders: Annotations, JPEGImages, ImageSets/Main; one year or several joined.

The only place that knows VOC's corners: 1-based and inclusive in the file, hence xmin and ymin less one (as detectron2
does) in boxes whose x2 and y2 are exclusive.
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

from detection.data.annotations import DataError, Records, Strings, first_few
from detection.data.cache import Arrays, kept, stamp, text_array, text_of
from detection.data.image import SUFFIXES, UnreadableImage, image_size

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VocObject:
    """One object of an XML: its class, xyxy in the house's convention, and whether it is difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def read_voc(root: str | Path, split: str, classes: Sequence[str] | None = None) -> Records:
    """Reads image sets.

    Args:
        root: a year's folder (with ImageSets), or one that holds years (VOC2007, VOC2012).
        split: "trainval", or "VOC2007/trainval+VOC2012/trainval"; a bare name under several years joins those that have it.
        classes: their order; None takes the names found, sorted.

    Images without XML and names without image are left out, with a warning that counts them.

    Raises:
        DataError: no such set, no images, no classes, or a class outside of ``classes``; says what is there.
    """
    root = Path(root)
    names, files, sizes, objects = [], [], [], []
    for year, image_set in image_sets(root, split):
        for name, file, size, found in _read_year(year, image_set):
            names.append(name)
            files.append(file)
            sizes.append(size)
            objects.append(found)
    if not files:
        raise DataError(f"{root}: image set {split!r} holds no image that is there with its XML")
    if len(set(names)) < len(names):
        raise DataError(
            f"{root}: image names stand twice in {split!r}, e.g. {next(n for n in names if names.count(n) > 1)}"
        )
    flat = [o for found in objects for o in found]
    present = {o.name for o in flat}
    order = tuple(sorted(present)) if classes is None else tuple(classes)
    if not order:
        raise DataError(f"{root}: no classes, the {len(files)} XML files of {split!r} hold no object")
    if unknown := present - set(order):
        raise DataError(
            f"{root}: {split!r} has the classes {', '.join(sorted(unknown))}, which are not among {', '.join(order)}"
        )
    boxes = np.array([o.box for o in flat], dtype=np.float64).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # of corners that are no numbers, which training leaves out
        sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
        areas = sides[:, 0] * sides[:, 1]
    return Records(
        name=f"{root}:{split}",
        classes=order,
        category_ids=tuple(range(1, len(order) + 1)),
        image_ids=names,
        files=Strings(files),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        offsets=np.cumsum([0, *map(len, objects)], dtype=np.int64),
        boxes=boxes,
        labels=np.array([order.index(o.name) + 1 for o in flat], dtype=np.int64),
        areas=areas,
        crowd=np.zeros(len(flat), dtype=bool),
        difficult=np.array([o.difficult for o in flat], dtype=bool),
    )


def read_xml(path: Path) -> list[VocObject]:
    """The objects of one XML, tags in any order, ``pose`` and ``truncated`` not needed.

    Raises:
        DataError: not XML, or an object without name or corners; names the file.
    """
    try:
        tree = parse(path)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(f"{path} is not valid XML, or not allowed: {error}") from error
    return [object_of(element, path) for element in tree.iter("object")]


def object_of(element: Element, path: Path) -> VocObject:
    def text(tag: str) -> str:
        value = element.findtext(tag)
        if value is None or not value.strip():
            raise DataError(f"{path}: an object lacks <{tag.replace('/', '><')}>")
        return value.strip()

    try:
        x1, y1, x2, y2 = (float(text(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise (
            error if isinstance(error, DataError) else DataError(f"{path}: a corner is not a number: {error}")
        ) from error
    difficult = (element.findtext("difficult") or "0").strip()
    # corners that coincide frame nothing; the conversion must not give them a pixel
    box = (x1 - 1 if x2 > x1 else x1, y1 - 1 if y2 > y1 else y1, x2, y2)
    return VocObject(text("name"), box, difficult not in ("", "0"))


def years(root: Path) -> list[Path]:
    """The folders under root, or root itself, that have ImageSets/Main."""
    candidates = (
        [root] if (root / "ImageSets" / "Main").is_dir() else sorted([*root.glob("*"), *root.glob("VOCdevkit/*")])
    )
    return [folder for folder in candidates if (folder / "ImageSets" / "Main").is_dir()]


def image_sets(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(year's folder, file that lists its images) of every set that ``split`` joins."""
    found = []
    for part in split.split("+"):
        year, _, name = part.strip().rpartition("/")
        folders = [f for f in years(root) if not year or f.name in (year, f"VOC{year}")]
        sets = [(f, f / "ImageSets" / "Main" / f"{name}.txt") for f in folders]
        sets = [(f, s) for f, s in sets if s.is_file()]
        if not sets:
            there = [
                f"{f.name}/{s.stem}" for f in years(root) for s in sorted((f / "ImageSets" / "Main").glob("*.txt"))
            ]
            raise DataError(
                f"{root}: no VOC image set {part.strip()!r} (ImageSets/Main/{name}.txt); "
                f"sets there: {', '.join(there[:8]) or 'none'}"
            )
        found += sets
    return found


def pictures_of(year: Path) -> dict[str, str]:
    """The file of each picture of a year's folder, by its name without the suffix."""
    return {Path(f).stem: f for f in sorted(os.listdir(year / "JPEGImages")) if f.lower().endswith(SUFFIXES)}


def _read_year(year: Path, image_set: Path) -> list[tuple[str, str, tuple[int, int], list[VocObject]]]:
    """Name, file, size and objects of a set's images."""
    pictures = pictures_of(year)
    names = listed_names(image_set, set(pictures))
    no_image = [n for n in names if n not in pictures]
    no_xml = [n for n in names if n in pictures and not (year / "Annotations" / f"{n}.xml").is_file()]
    for reason, absent in (("image", no_image), ("XML", no_xml)):
        if absent:
            _LOG.warning(
                "%s: %d of %d names have no %s and are left out: %s",
                image_set,
                len(absent),
                len(names),
                reason,
                first_few(absent),
            )
    skip = {*no_image, *no_xml}
    names = [n for n in names if n not in skip]
    files = [year / "JPEGImages" / pictures[n] for n in names]
    xmls = [year / "Annotations" / f"{n}.xml" for n in names]
    with ThreadPoolExecutor(8) as pool:
        stamps = list(pool.map(stamp, (*files, *xmls)))
        made_from = hashlib.sha256(repr((names, stamps)).encode()).hexdigest()
        # the XML's own size is 0x0 or wrong too often to be of use: the pictures are asked
        arrays = kept(
            f"{year.resolve()}:{image_set.name}",
            made_from,
            lambda: _as_arrays(list(pool.map(_size_or_fault, files)), list(pool.map(read_xml, xmls))),
            unless=lambda arrays: any(text_of(arrays["text"])["faults"]),
        )
    text = text_of(arrays["text"])
    for fault in filter(None, text["faults"]):
        _LOG.warning("%s; left out", fault)
    objects = [
        VocObject(text["classes"][k], tuple(box), difficult)
        for k, box, difficult in zip(
            arrays["labels"].tolist(), arrays["boxes"].tolist(), arrays["difficult"].tolist(), strict=True
        )
    ]
    ends = np.cumsum(arrays["counts"]).tolist()
    rows = zip(names, files, arrays["sizes"].tolist(), text["faults"], arrays["counts"].tolist(), ends, strict=True)
    return [
        (name, str(file), (height, width), objects[end - count : end])
        for name, file, (height, width), fault, count, end in rows
        if not fault
    ]


def _size_or_fault(file: Path) -> tuple[int, int] | str:
    try:
        return image_size(file)
    except UnreadableImage as error:
        return str(error)


def _as_arrays(sizes: list[tuple[int, int] | str], objects: list[list[VocObject]]) -> Arrays:
    flat = [o for found in objects for o in found]
    classes = sorted({o.name for o in flat})
    label = {name: k for k, name in enumerate(classes)}
    return {
        "text": text_array({"classes": classes, "faults": [s if isinstance(s, str) else "" for s in sizes]}),
        "sizes": np.array([(0, 0) if isinstance(s, str) else s for s in sizes], dtype=np.int64).reshape(-1, 2),
        "counts": np.array([len(found) for found in objects], dtype=np.int64),
        "boxes": np.array([o.box for o in flat], dtype=np.float64).reshape(-1, 4),
        "labels": np.array([label[o.name] for o in flat], dtype=np.int64),
        "difficult": np.array([o.difficult for o in flat], dtype=bool),
    }


def listed_names(image_set: Path, known: set[str]) -> list[str]:
    """The names that an image set lists: whole lines where they are known (names may hold blanks, or carry an extension),
    else their first word (a class's own sets have a second)."""
    names = []
    for line in image_set.read_text().splitlines():
        if text := line.strip():
            whole = (text, Path(text).stem)
            names.append(next((name for name in whole if name in known), text.split()[0]))
    return names


def voc_truth(folder: Path, split: str | None = None) -> dict[str, Any]:
    """The annotations of a VOC folder in COCO's form with "difficult", image ids being the XML files' stems. Pictures need
    not be there.

    Args:
        folder: with Annotations, or with year folders that have them.
        split: an image set; None takes every XML.

    Raises:
        DataError: no annotations, or no such set.
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
            there = {path.stem: path for path in (year / "Annotations").glob("*.xml")}
            names = listed_names(image_set, set(there))
            files += [there[name] for name in names if name in there]
            if absent := [name for name in names if name not in there]:
                _LOG.warning(
                    "%s: %d of %d names have no XML and are left out: %s", image_set, len(absent), len(names), absent[0]
                )
    if not files:
        raise DataError(f"{folder}: no VOC annotations (Annotations/*.xml, there or in year folders)")
    objects = {path.stem: read_xml(path) for path in files}
    if len(objects) < len(files):
        raise DataError(f"{folder}: image names stand twice in its years; name one image set, or one year's folder")
    category_of = {name: i for i, name in enumerate(sorted({o.name for found in objects.values() for o in found}), 1)}
    annotations: list[dict[str, Any]] = []
    for image, found in objects.items():
        for o in found:
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
