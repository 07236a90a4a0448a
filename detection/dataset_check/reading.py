"""Read a VOC or COCO split for checking: unlike the readers of training, continue after errors and report every issue."""

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
from detection.data.coco import annotation_file, file_name, image_folder, image_folders
from detection.data.formats import BUILT_IN, SYNTHETIC, get_format
from detection.data.image import SUFFIXES
from detection.data.voc import image_files, image_names, image_sets, parse_object, year_folders
from detection.dataset_check.issues import KINDS, REFUSES, AnnotatedImage, Box, Issue


@dataclass
class SplitContents:
    """The contents of a split.

    Attributes:
        source: the file that lists the images.
        images: the images whose files exist.
        issues: of the annotations.
        classes: number of objects by class, all classes included.
        crowd: number of crowd regions.
        difficult: number of difficult objects.
    """

    source: str
    images: list[AnnotatedImage] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    difficult: int = 0


def read_split(config: DataConfig, split: str) -> SplitContents:
    """Read a split and the issues of its annotations.

    Raises:
        DataError: the split does not exist, or the format is the synthetic dataset's.
    """
    root = Path(config.root).expanduser()
    if config.format == SYNTHETIC:
        raise DataError(
            "nothing to check: data.format=shapes is a synthetic dataset; give data.format=voc or data.format=coco"
        )
    if config.format not in BUILT_IN:
        return _read_registered(config.format, root, split)
    if not root.is_dir():
        raise DataError(f"no folder {root}: give data.root=FOLDER")
    contents = (_read_voc_split if config.format == "voc" else _read_coco_split)(root, split)
    logger = logging.getLogger("detection.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its warnings are reported here one by one
    try:
        get_format(config.format).read(root, split)
    except DataError as error:
        if not any(KINDS[issue.kind][1] == REFUSES for issue in contents.issues):
            contents.issues.append(Issue("broken annotations", contents.source, None, str(error)))
    finally:
        logger.setLevel(level)
    return contents


def source_stamps(config: DataConfig, split: str) -> list[tuple[int, int]] | None:
    """Return the stamps of all annotation files and folders that :func:`read_split` reads, as a cache key; None for a
    registered format, of which they are not known."""
    root = Path(config.root).expanduser()
    if config.format not in BUILT_IN:
        return None
    if config.format == "coco":
        path = annotation_file(root, split)
        return [file_stamp(p) for p in (path, *image_folders(root, split, path)) if p.exists()]
    paths = []
    for year, image_set in image_sets(root, split):
        names = image_names(image_set, set(image_files(year)))
        xmls = [year / "Annotations" / f"{name}.xml" for name in names]
        paths += [image_set, year / "JPEGImages", *xmls]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda p: file_stamp(p) if p.exists() else (-1, -1), paths))


def _read_registered(name: str, root: Path, split: str) -> SplitContents:
    """Check what a registered format's reader gives: files that do not exist, and its boxes like any others."""
    annotations = get_format(name).read(root, split)
    contents = SplitContents(annotations.name, classes=Counter(dict.fromkeys(annotations.classes, 0)))
    for i, file in enumerate(annotations.files):
        rows = range(*annotations.objects(i).indices(len(annotations.labels)))
        objects: list[tuple[str, str, Box, bool]] = []
        for number, j in enumerate(rows, 1):
            label, crowd = annotations.classes[annotations.labels[j] - 1], bool(annotations.crowd[j])
            x1, y1, x2, y2 = annotations.boxes[j].tolist()
            objects.append((str(number), label, (x1, y1, x2, y2), crowd))
            contents.classes[label] += 1
            contents.crowd += crowd
            contents.difficult += bool(annotations.difficult[j])
        height, width = (int(side) for side in annotations.sizes[i])
        if Path(file).is_file():
            contents.images.append(AnnotatedImage(Path(file), f"{annotations.name}: {file}", (height, width), objects))
        else:
            contents.issues.append(Issue("missing picture", annotations.name, None, file))
    return contents


def _read_voc_split(root: Path, split: str) -> SplitContents:
    if not year_folders(root):
        raise DataError(f"{root}: no VOC folder (ImageSets/Main in it or in its year folders)")
    sets = image_sets(root, split)
    contents = SplitContents(" + ".join(str(file) for _, file in sets))
    names: set[str] = set()
    for year, image_set in sets:
        images = image_files(year)
        for name in image_names(image_set, set(images)):
            xml = year / "Annotations" / f"{name}.xml"
            if name in names:
                contents.issues.append(Issue("repeated name", str(image_set), None, name))
                continue
            names.add(name)
            if name not in images:
                contents.issues.append(Issue("missing picture", str(image_set), None, name))
            if not xml.is_file():
                contents.issues.append(Issue("missing annotations", str(image_set), None, str(xml)))
            elif name in images:
                _add_voc_image(contents, xml, year / "JPEGImages" / images[name])
    return contents


def _add_voc_image(contents: SplitContents, xml: Path, image: Path) -> None:
    try:
        tree = parse(xml)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        contents.issues.append(Issue("broken annotations", str(xml), None, str(error) or type(error).__name__))
        return
    objects: list[tuple[str, str, Box, bool]] = []
    for number, element in enumerate(tree.iter("object"), 1):
        try:
            voc_object = parse_object(element, xml)
        except DataError as error:
            contents.issues.append(Issue("broken annotations", str(xml), str(number), str(error)))
            continue
        objects.append((str(number), voc_object.name, voc_object.box, voc_object.difficult))
        contents.classes[voc_object.name] += 1
        contents.difficult += voc_object.difficult
    name = (tree.findtext("filename") or "").strip()
    if name and name != image.name:
        contents.issues.append(Issue("another file name stated", str(xml), None, f"{name}, the image is {image.name}"))
    contents.images.append(AnnotatedImage(image, str(xml), _voc_size(tree), objects))


def _voc_size(tree: Any) -> tuple[int, int] | None:
    try:
        return int(tree.findtext("size/height")), int(tree.findtext("size/width"))
    except (TypeError, ValueError):
        return None


def _read_coco_split(root: Path, split: str) -> SplitContents:
    path = annotation_file(root, split)
    contents = SplitContents(str(path))
    try:
        content = json.loads(path.read_bytes())
        tables = [content[key] for key in ("images", "annotations", "categories")]
        if not all(isinstance(table, list) for table in tables):
            raise TypeError("images, annotations and categories must be lists")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not COCO annotations: {error!r}") from error
    images, annotations, categories = tables

    def parsed(table: str, number: int, row: Any, read: Callable[[Any], Any]) -> Any:
        """Return read(row), or None where the row is invalid, which is reported."""
        try:
            return read(row)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            contents.issues.append(Issue("broken annotations", str(path), f"{table}[{number}]", f"{error!r}"))
            return None

    class_names = {}
    for i, row in enumerate(categories):
        if (entry := parsed("categories", i, row, lambda c: (_key(c["id"]), str(c["name"])))) is not None:
            class_names[entry[0]] = entry[1]
            contents.classes[entry[1]] += 0
    listed: dict[Any, tuple[str, tuple[int, int] | None]] = {}
    for i, row in enumerate(images):
        entry = parsed("images", i, row, lambda m: (_key(m["id"]), file_name(m["file_name"]), _coco_size(m)))
        if entry is None:
            continue
        if entry[0] in listed:
            contents.issues.append(Issue("repeated name", str(path), f"images[{i}]", f"duplicate id {entry[0]!r}"))
        listed[entry[0]] = entry[1:]
    objects: dict[Any, list[tuple[str, str, Box, bool]]] = {key: [] for key in listed}
    for i, row in enumerate(annotations):
        entry = parsed("annotations", i, row, lambda a: (_key(a["image_id"]), _key(a["category_id"]), _xyxy(a["bbox"])))
        if entry is None:
            continue
        image, category, box = entry
        number = str(row.get("id", f"annotations[{i}]"))
        if category not in class_names:
            contents.issues.append(Issue("unknown class", str(path), number, f"category_id {category!r}"))
        elif image not in listed:
            contents.issues.append(Issue("stray annotation", str(path), number, f"image_id {image!r}"))
        else:
            crowd = bool(row.get("iscrowd", row.get("is_crowd", 0)))
            objects[image].append((number, class_names[category], box, crowd))
            contents.classes[class_names[category]] += 1
            contents.crowd += crowd
    files = [name for name, _ in listed.values()]
    folder = image_folder(root, split, path, files[:50]) if files else root
    present = set(os.listdir(folder))
    for key, (name, annotated_size) in listed.items():
        file = folder / name
        if name in present or file.is_file():
            contents.images.append(AnnotatedImage(file, f"{path}: {name}", annotated_size, objects[key]))
        else:
            contents.issues.append(Issue("missing picture", str(path), None, name))
    if folder != root:
        unused = sorted(name for name in present - set(files) if name.lower().endswith(SUFFIXES))
        contents.issues += [Issue("unused file", str(folder / name)) for name in unused]
    return contents


def _key(value: Any) -> Any:
    """Return an id unchanged; raise TypeError for a list or an object, which cannot be one."""
    hash(value)
    return value


def _coco_size(image: Any) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (int(height), int(width)) if height and width else None


def _xyxy(bbox: Any) -> Box:
    x, y, width, height = (float(v) for v in bbox)
    return x, y, x + width, y + height
