"""Convert a dataset of any format into COCO's, VOC's or YOLO's."""

from pathlib import Path

from detection.config import DataConfig
from detection.data.annotations import Annotations
from detection.data.opening import open_source
from detection.data_tools.folders import Images
from detection.data_tools.writers import write_dataset


def open_splits(config: DataConfig) -> dict[str, Annotations]:
    """Return the training and validation sets of a configuration, as train and val, with one list of classes.

    Raises:
        DataError: a split is missing, or training would refuse it.
    """
    source = open_source(config)
    return {name: records for name, records in (("train", source.train), ("val", source.val)) if records is not None}


def convert(config: DataConfig, to: str, output: Path, images: Images = "link") -> list[str]:
    """Write the dataset that a configuration names in another format.

    Args:
        config: the data section: data.train becomes the split train, data.val the split val.
        to: coco, voc or yolo.
        output: a new folder.
        images: as for :func:`write_dataset`.

    Returns:
        What the format cannot hold, a sentence each.

    Raises:
        DataError, FileExistsError, OSError: as :func:`open_splits` and :func:`write_dataset`.
    """
    return write_dataset(open_splits(config), output, to, images)
