"""Divide one annotated set into training, validation and test images, written as a dataset of its own."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from detection.config import DataConfig
from detection.data.annotations import Annotations, DataError
from detection.data.formats import get_format
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
    to: str | None = None,
    images: Images = "link",
) -> SplitDataset:
    """Split ``data.train`` by class, with images that look the same on one side, and write the parts as a new dataset.

    Args:
        config: names the set; ``data.val`` is not read.
        output: a new folder; split.json in it lists the images of each part.
        val, test: fractions of the images.
        seed: of the split.
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
    whole = get_format(config.format).read(root, config.train)
    split = make_split(whole, (1 - val - test, val, test), seed, root)
    parts = {
        name: dataclasses.replace(part, issues=()) for name, part in split.select(whole, root).items() if len(part)
    }
    to = to or (config.format if config.format in WRITERS else "coco")
    lost = write_dataset(parts, output, to, images)
    split.write(Path(output) / FILE)
    return SplitDataset(split, parts, to, lost)
