"""The data formats by name: those of this project, and those that others register."""

import difflib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import Annotations, DataError, finish_reading
from detection.data.coco import read_coco
from detection.data.files import is_file
from detection.data.image import read_image
from detection.data.issues import Issue
from detection.data.loader import ImageReader
from detection.data.readers import labelme, openimages, tables, yolo
from detection.data.readers.yolo import read_yolo
from detection.data.recognise import AUTO, recognise
from detection.data.voc import read_voc

# (data.root, data.train or data.val) -> the split
Reader = Callable[[Path, str], Annotations]
SYNTHETIC = "shapes"  # has no files
_OWN = (AUTO, "coco", "voc", SYNTHETIC)  # names that nobody may register
_ENTRY_POINTS = "resdet.formats"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataFormat:
    """How a format is read.

    Attributes:
        read: a split's annotations; refuses what training cannot use, and logs what it leaves out.
        check: the same without refusing or logging: all is in the annotations' issues.
        read_image: a file's image, uint8 RGB [H, W, 3].
        own_ids: its classes have ids of their own, which detections keep; else they are numbered from 1.
        lists_classes: a split lists all classes; else those that occur in it, and two splits have the union of theirs.
        stamps: a split's files as a cache key, None where they are not known.
        layout: what lies in its folder, for messages.
    """

    read: Reader
    check: Reader
    read_image: ImageReader = read_image
    own_ids: bool = True
    lists_classes: bool = True
    stamps: Callable[[Path, str], Any] | None = None
    layout: str = ""


def _built_in(read: Callable[..., Annotations], layout: str, **options: Any) -> DataFormat:
    return DataFormat(read, functools.partial(read, strict=False), layout=layout, **options)


def _occurring(read: Callable[..., Annotations], layout: str, module: Any) -> DataFormat:
    """Return a format whose splits list the classes that occur in them."""
    return _built_in(read, layout, own_ids=False, lists_classes=False, stamps=module.source_stamps)


BUILT_IN = {
    "coco": _built_in(read_coco, "annotations/instances_SPLIT.json and SPLIT/ with the images"),
    "voc": _built_in(
        read_voc,
        "ImageSets/Main/SET.txt, Annotations/ and JPEGImages/, year folders with them, or folders of images and XML",
        own_ids=False,
        lists_classes=False,
    ),
    "yolo": _built_in(
        read_yolo, "data.yaml, images/SPLIT/ and labels/SPLIT/", own_ids=False, stamps=yolo.source_stamps
    ),
    "csv": _occurring(tables.read_csv, "SPLIT.csv with file, x1, y1, x2, y2, class, and the images", tables),
    "openimages": _occurring(
        openimages.read_openimages, "SPLIT-annotations-bbox.csv, class-descriptions-boxable.csv, SPLIT/", openimages
    ),
    "labelme": _occurring(labelme.read_labelme, "SPLIT/ with images and JSON files of labelme's", labelme),
}
_REGISTERED: dict[str, DataFormat] = {}


def register_format(name: str, reader: Reader, *, read_image: ImageReader = read_image) -> None:
    """Add a data format: ``data.format=NAME`` then works in configurations, in the dataset check and on command lines.

    On a command line, ``--import FILE.py`` (or a module's name) imports what registers it; an installed package can name its
    reader as an entry point of the group ``resdet.formats``.

    Args:
        name: of the format.
        reader: called with the folder (``data.root``, which need not exist) and the split (``data.train``, ``data.val``).
        read_image: reads a file's image as uint8 RGB [H, W, 3].

    Raises:
        ValueError: the name is auto, coco, voc or shapes; any other one is replaced, also this project's yolo, csv,
            openimages and labelme, which code from before them may register.
    """
    if name in _OWN:
        raise ValueError(f"the data format {name!r} is this project's: take another name")
    _REGISTERED[name] = _registered(reader, read_image)


def _registered(reader: Reader, own_images: ImageReader) -> DataFormat:
    """Return a format whose images without a file are left out, and named."""

    def with_files(root: Path, split: str, *, strict: bool) -> Annotations:
        annotations = reader(root, split)
        issues = list(annotations.issues)
        present = np.ones(len(annotations), dtype=bool)
        if own_images is read_image:  # another reader's images need not be files
            present = np.array([is_file(Path(file)) for file in annotations.files], dtype=bool)
            issues += [
                Issue("missing image", annotations.name, None, annotations.files[i])
                for i in np.flatnonzero(~present).tolist()
            ]
        if len(present) and not present.any():
            raise DataError(
                f"{annotations.name}: none of its {len(present)} images exists, the first is {annotations.files[0]}"
            )
        annotations = replace(annotations, issues=tuple(issues)).select(present)
        return finish_reading(annotations, "x1, y1, x2, y2", _LOG, strict=strict)

    return DataFormat(
        functools.partial(with_files, strict=True), functools.partial(with_files, strict=False), own_images
    )


def get_format(name: str) -> DataFormat:
    """Return a format by name.

    Raises:
        DataError: there is no such format; lists those there are.
    """
    if name in BUILT_IN or name in _REGISTERED:
        return _REGISTERED.get(name) or BUILT_IN[name]
    for entry in entry_points(group=_ENTRY_POINTS, name=name):
        return _registered(entry.load(), read_image)
    known = [AUTO, *BUILT_IN, SYNTHETIC, *_REGISTERED, *(entry.name for entry in entry_points(group=_ENTRY_POINTS))]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(
        f"no data format {name!r}: {hint}There are {', '.join(known)}; --import FILE.py imports what registers another"
    )


def is_built_in(name: str) -> bool:
    """Return whether a name is that of a format of this project, which nobody replaced."""
    return name in BUILT_IN and name not in _REGISTERED


def numbers_classes(name: str) -> bool:
    """Return whether a format's classes have no ids of their own, and are numbered from 1."""
    return name != SYNTHETIC and not get_format(name).own_ids


def open_split(format: str, root: str | Path, split: str) -> Annotations:
    """Read a split of a data set.

    Args:
        format: auto (found by what lies in the folder), one of this project's (docs/data.md), or a registered one.
        root: its folder.
        split: as ``data.train`` and ``data.val`` of a configuration.

    Returns:
        Its records: their number is ``len``; ``files`` (N paths), ``classes`` (K names), and of all objects ``boxes``,
        float64 [M, 4] xyxy in pixels, and ``labels``, int64 [M], 1..K; those of image i are at ``objects(i)``.

    Raises:
        DataError: no such format, folder or split; with auto, no format or several.
    """
    folder = Path(root).expanduser()
    return get_format(recognise(folder).format if format == AUTO else format).read(folder, split)
