"""Divide one annotated set into training, validation and test images, written as a dataset of its own."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.config import DataConfig
from detection.data.annotations import Annotations, DataError, Strings
from detection.data.formats import get_format, numbers_classes
from detection.data.opening import union
from detection.data.recognise import find_data
from detection.data.splitting.split import FILE, Split, make_split
from detection.data_tools.folders import Images
from detection.data_tools.writers import WRITERS, write_dataset


@dataclass(frozen=True)
class SplitDataset:
    """A dataset that was split and written.

    Attributes:
        split: the names of the images of each part.
        parts: the annotations of each, by name.
        format: that was written.
        lost: what the format cannot hold, a sentence each.
    """

    split: Split
    parts: dict[str, Annotations]
    format: str
    lost: list[str]


def split_dataset(
    config: DataConfig,
    output: Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    join: bool = False,
    to: str | None = None,
    images: Images = "link",
) -> SplitDataset:
    """Split ``data.train`` by class, with images that look the same on one side, and write the parts as a new dataset.

    Args:
        config: names the set; ``data.val`` is not read without ``join``.
        output: a new folder; split.json in it lists the images of each part.
        val, test: fractions of the images.
        seed: of the split.
        join: divide the images of ``data.train`` and ``data.val`` anew; an image that both list is taken once.
        to: coco, voc or yolo; None keeps the data's own format, and takes COCO's where that cannot be written.
        images: link, copy or none.

    Raises:
        DataError: fractions that leave nothing to train on, fewer images than parts, or data that cannot be read.
        FileExistsError, OSError: as :func:`write_dataset`.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise DataError(f"fractions between 0 and 1 that leave images to train on, got --val {val:g} --test {test:g}")
    config = find_data(config)
    root = Path(config.root).expanduser()
    read = functools.partial(get_format(config.format).read, root)
    whole = read(config.train)
    if join and config.val is not None:
        whole = _join(whole, read(config.val), numbers_classes(config.format))
    split = make_split(whole, (1 - val - test, val, test), seed, root)
    parts = {
        name: dataclasses.replace(part, issues=()) for name, part in split.select(whole, root).items() if len(part)
    }
    to = to or (config.format if config.format in WRITERS else "coco")
    lost = write_dataset(parts, output, to, images)
    split.write(Path(output) / FILE)
    return SplitDataset(split, parts, to, lost)


def _join(first: Annotations, second: Annotations, renumber: bool) -> Annotations:
    """Return the images of two sets as one: those of the first, and of the second those that are not in the first.

    Image ids that both have are replaced by numbers from 1.
    """
    known = {*first.files}
    second = second.select(np.array([file not in known for file in second.files], dtype=bool))
    classes = union(first.classes, second.classes)
    sets = [records.with_classes(classes, renumber=renumber) for records in (first, second)]
    ids = [image for records in sets for image in records.image_ids]
    names = [[records.file_name(i) for i in range(len(records))] for records in sets]
    arrays = {
        key: np.concatenate([getattr(records, key) for records in sets])
        for key in ("sizes", "boxes", "labels", "areas", "crowd", "difficult")
    }
    counts = np.concatenate([np.diff(records.offsets) for records in sets])
    same_folder = first.folder == second.folder and not set(names[0]) & set(names[1])
    return dataclasses.replace(
        first,
        name=f"{first.name} and {second.name}",
        classes=classes,
        category_ids=sets[0].category_ids,
        image_ids=ids if len(set(ids)) == len(ids) else list(range(1, len(ids) + 1)),
        files=Strings([file for records in sets for file in records.files]),
        offsets=np.cumsum([0, *counts.tolist()], dtype=np.int64),
        object_names=None,
        sources=None,
        folder=first.folder if same_folder else None,
        issues=(),
        **arrays,
    )
