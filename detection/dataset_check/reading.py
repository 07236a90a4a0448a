"""A VOC or COCO set read for its faults: where training's readers refuse or leave out, these go on and name everything."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, parse

from detection.config import DataConfig
from detection.data.annotations import DataError
from detection.data.cache import file_stamp
from detection.data.coco import annotation_file, file_name, image_folder, image_folders, read_coco
from detection.data.image import SUFFIXES
from detection.data.voc import image_files, image_names, image_sets, parse_object, read_voc, year_folders
from detection.dataset_check.issues import KINDS, REFUSES, Annotated, Box, Fault


@dataclass
class Audit:
    """A set as its files have it.

    Attributes:
        where: the file that lists its pictures.
        images: those that are there.
        faults: of the annotations.
        classes: names of all classes, with how many objects have them.
        crowd, difficult: objects of these kinds.
    """

    where: str
    images: list[Annotated] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    difficult: int = 0


def audit(config: DataConfig, split: str) -> Audit:
    """Reads a split.

    Raises:
        DataError: there is no such split at all, or the format is that of the drawn pictures.
    """
    root = Path(config.root).expanduser()
    if config.format == "shapes":
        raise DataError(
            "data.format=shapes draws its pictures: there is nothing to check; give data.format=voc or coco"
        )
    if not root.is_dir():
        raise DataError(f"no folder {root}: give data.root=FOLDER")
    found = (_audit_voc if config.format == "voc" else _audit_coco)(root, split)
    logger = logging.getLogger("detection.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its warnings are named here one by one
    try:
        (read_voc if config.format == "voc" else read_coco)(root, split)
    except DataError as error:
        if not any(KINDS[fault.kind][1] == REFUSES for fault in found.faults):
            found.faults.append(Fault("broken annotations", found.where, None, str(error)))
    finally:
        logger.setLevel(level)
    return found


def made_from(config: DataConfig, split: str) -> list[tuple[int, int]]:
    """What changes when something changes that :func:`audit` reads: of its annotations, and of the lists of its folders."""
    root = Path(config.root).expanduser()
    if config.format == "coco":
        path = annotation_file(root, split)
        return [file_stamp(own) for own in (path, *image_folders(root, split, path)) if own.exists()]
    paths = []
    for year, image_set in image_sets(root, split):
        names = image_names(image_set, set(image_files(year)))
        xmls = [year / "Annotations" / f"{name}.xml" for name in names]
        paths += [image_set, year / "JPEGImages", *xmls]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda own: file_stamp(own) if own.exists() else (-1, -1), paths))


def _audit_voc(root: Path, split: str) -> Audit:
    if not year_folders(root):
        raise DataError(f"{root}: no VOC folder (ImageSets/Main, there or in year folders)")
    sets = image_sets(root, split)
    found = Audit(" + ".join(str(file) for _, file in sets))
    seen: set[str] = set()
    for year, image_set in sets:
        pictures = image_files(year)
        for name in image_names(image_set, set(pictures)):
            xml = year / "Annotations" / f"{name}.xml"
            if name in seen:
                found.faults.append(Fault("repeated name", str(image_set), None, name))
                continue
            seen.add(name)
            if name not in pictures:
                found.faults.append(Fault("missing picture", str(image_set), None, name))
            if not xml.is_file():
                found.faults.append(Fault("missing annotations", str(image_set), None, str(xml)))
            elif name in pictures:
                _voc_image(found, xml, year / "JPEGImages" / pictures[name])
    return found


def _voc_image(found: Audit, xml: Path, picture: Path) -> None:
    try:
        tree = parse(xml)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        found.faults.append(Fault("broken annotations", str(xml), None, str(error) or type(error).__name__))
        return
    objects: list[tuple[str, str, Box, bool]] = []
    for number, element in enumerate(tree.iter("object"), 1):
        try:
            read = parse_object(element, xml)
        except DataError as error:
            found.faults.append(Fault("broken annotations", str(xml), str(number), str(error)))
            continue
        objects.append((str(number), read.name, read.box, read.difficult))
        found.classes[read.name] += 1
        found.difficult += read.difficult
    name = (tree.findtext("filename") or "").strip()
    if name and name != picture.name:
        found.faults.append(Fault("another file name stated", str(xml), None, f"{name}, it is {picture.name}"))
    found.images.append(Annotated(picture, str(xml), _voc_size(tree), objects))


def _voc_size(tree: Any) -> tuple[int, int] | None:
    try:
        return int(tree.findtext("size/height")), int(tree.findtext("size/width"))
    except (TypeError, ValueError):
        return None


def _audit_coco(root: Path, split: str) -> Audit:
    path = annotation_file(root, split)
    found = Audit(str(path))
    try:
        content = json.loads(path.read_bytes())
        tables = [content[key] for key in ("images", "annotations", "categories")]
        if not all(isinstance(table, list) for table in tables):
            raise TypeError("images, annotations and categories must be lists")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not COCO annotations: {error!r}") from error
    images, annotations, categories = tables

    def entry(table: str, number: int, row: Any, read: Callable[[Any], Any]) -> Any:
        try:
            return read(row)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            found.faults.append(Fault("broken annotations", str(path), f"{table}[{number}]", f"{error!r}"))
            return None

    names = {}
    for i, row in enumerate(categories):
        if (own := entry("categories", i, row, lambda c: (_key(c["id"]), str(c["name"])))) is not None:
            names[own[0]] = own[1]
            found.classes[own[1]] += 0
    listed: dict[Any, tuple[str, tuple[int, int] | None]] = {}
    for i, row in enumerate(images):
        own = entry("images", i, row, lambda m: (_key(m["id"]), file_name(m["file_name"]), _coco_size(m)))
        if own is None:
            continue
        if own[0] in listed:
            found.faults.append(Fault("repeated name", str(path), f"images[{i}]", f"id {own[0]!r} stands twice"))
        listed[own[0]] = own[1:]
    objects: dict[Any, list[tuple[str, str, Box, bool]]] = {key: [] for key in listed}
    for i, row in enumerate(annotations):
        own = entry("annotations", i, row, lambda a: (_key(a["image_id"]), _key(a["category_id"]), _xyxy(a["bbox"])))
        if own is None:
            continue
        image, category, box = own
        number = str(row.get("id", f"annotations[{i}]"))
        if category not in names:
            found.faults.append(Fault("unknown class", str(path), number, f"category_id {category!r}"))
        elif image not in listed:
            found.faults.append(Fault("stray annotation", str(path), number, f"image_id {image!r}"))
        else:
            crowd = bool(row.get("iscrowd", row.get("is_crowd", 0)))
            objects[image].append((number, names[category], box, crowd))
            found.classes[names[category]] += 1
            found.crowd += crowd
    files = [name for name, _ in listed.values()]
    folder = image_folder(root, split, path, files[:50]) if files else root
    present = set(os.listdir(folder))
    for key, (name, stated) in listed.items():
        file = folder / name
        if name in present or file.is_file():
            found.images.append(Annotated(file, f"{path}: {name}", stated, objects[key]))
        else:
            found.faults.append(Fault("missing picture", str(path), None, name))
    if folder != root:
        spare = sorted(name for name in present - set(files) if name.lower().endswith(SUFFIXES))
        found.faults += [Fault("unused file", str(folder / name)) for name in spare]
    return found


def _key(value: Any) -> Any:
    """An id as it is; raises TypeError for a list or an object."""
    hash(value)
    return value


def _coco_size(image: Any) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (int(height), int(width)) if height and width else None


def _xyxy(bbox: Any) -> Box:
    x, y, width, height = (float(v) for v in bbox)
    return x, y, x + width, y + height
