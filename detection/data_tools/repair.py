"""Mend what the check finds in a whole set: boxes of another convention, and class names that are one class."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from detection.config import DataConfig
from detection.data.annotations import Annotations, DataError, finish_reading
from detection.data.formats import get_format
from detection.data.recognise import find_data
from detection.data.splitting.parts import read_parts
from detection.data_tools.folders import Images
from detection.data_tools.writers import WRITERS, write_dataset

_LOG = logging.getLogger(__name__)
Boxes = Literal["as-is", "relative", "corners"]
BOXES: tuple[str, ...] = get_args(Boxes)


def repair_dataset(
    config: DataConfig,
    output: Path,
    *,
    boxes: Boxes = "as-is",
    rename: Mapping[str, str] | None = None,
    to: str | None = None,
    images: Images = "link",
) -> tuple[dict[str, Annotations], str, list[str]]:
    """Write a repaired copy of a dataset into a new folder.

    Args:
        config: the data section; its sets are read as the check reads them, so that training need not accept them.
        output: a new folder.
        boxes: relative multiplies them by the size of their image, corners takes what was read as x, y, width, height as
            x1, y1, x2, y2.
        rename: class names and what they become; classes of one name are joined.
        to: coco, voc or yolo; None keeps the data's own format, and takes COCO's where that cannot be written.
        images: link, copy or none.

    Returns:
        The sets that were written, their format, and what the format cannot hold, a sentence each.

    Raises:
        DataError: no such class, or sets that are still not to be trained on.
        FileExistsError, OSError: as :func:`write_dataset`.
    """
    config = find_data(config)
    root = Path(config.root).expanduser()
    parts = read_parts(config, lambda split: get_format(config.format).check(root, split))
    found = {name: records for name, records in (("train", parts.train), ("val", parts.val)) if records is not None}
    known = {name for records in found.values() for name in records.classes}
    if unknown := [name for name in rename or {} if name not in known]:
        raise DataError(f"no class {unknown[0]!r} to rename, there are {', '.join(sorted(known))}")
    sets = {name: _joined(_converted(records, boxes), rename or {}) for name, records in found.items()}
    classes = tuple(dict.fromkeys(name for records in sets.values() for name in records.classes))
    sets = {name: records.with_classes(classes) for name, records in sets.items()}
    for records in sets.values():
        finish_reading(records, "x, y, width, height", _LOG, strict=True)
    to = to or (config.format if config.format in WRITERS else "coco")
    return sets, to, write_dataset(sets, output, to, images)


def _converted(records: Annotations, boxes: Boxes) -> Annotations:
    """Return the annotations with their boxes read by another convention, without the issues of reading."""
    xyxy = records.boxes.copy()
    if boxes == "relative":
        xyxy *= records.sizes[records.image_of()][:, [1, 0, 1, 0]]
    elif boxes == "corners":
        xyxy[:, 2:] -= xyxy[:, :2]  # the width that was read is x2
    areas = (xyxy[:, 2:] - xyxy[:, :2]).clip(0).prod(axis=1)
    return dataclasses.replace(records, boxes=xyxy, areas=records.areas if boxes == "as-is" else areas, issues=())


def _joined(records: Annotations, rename: Mapping[str, str]) -> Annotations:
    """Return the annotations with classes renamed; the first of several with one name keeps its id."""
    names = [rename.get(name, name) for name in records.classes]
    classes = tuple(dict.fromkeys(names))
    table = np.array([0, *(classes.index(name) + 1 for name in names)], dtype=np.int64)
    ids = dict(reversed(list(zip(names, records.category_ids, strict=True))))
    return dataclasses.replace(
        records, classes=classes, category_ids=tuple(ids[name] for name in classes), labels=table[records.labels]
    )
