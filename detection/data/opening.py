"""From the data part of a configuration to records, with one message where the data are not there."""

import logging
from dataclasses import dataclass
from pathlib import Path

from detection.config import DataConfig
from detection.data.annotations import DataError, Records, TrainObjects
from detection.data.coco import annotation_file, read_coco
from detection.data.image import read_image
from detection.data.loader import ReadPicture
from detection.data.synthetic import read_picture, shapes_records
from detection.data.voc import read_voc, years

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The sets of a run, either of which may be absent, and how their pictures are read."""

    train: Records | None
    val: Records | None
    read: ReadPicture

    @property
    def records(self) -> Records:
        """The set that classes come from."""
        records = self.train or self.val
        if records is None:
            raise DataError("neither data.train nor data.val is given")
        return records


def open_source(config: DataConfig, *, train: bool = True, config_name: str = "") -> Source:
    """Reads the annotations of what the configuration names; pictures are not opened.

    Args:
        config: the data part.
        train: also read the training set (an evaluation needs none).
        config_name: for the message.

    Raises:
        DataError: a folder or a set is not there (says what was expected, how to get it, and what runs without it), or
            training and validation have different classes (lists both).
    """
    if config.format == "shapes":
        return Source(
            shapes_records(_count(config.train, "train"), config.seed) if train else None,
            # another seed, so that no picture stands in both
            shapes_records(_count(config.val, "val"), config.seed + 1_000_003) if config.val else None,
            read_picture,
        )
    root = Path(config.root).expanduser()
    if not root.is_dir() or (config.format == "voc" and not years(root)):
        raise DataError(_missing(config, config_name))
    if config.format == "coco":
        splits = ([config.train] if train else []) + ([config.val] if config.val else [])
        for split in splits:
            try:
                annotation_file(root, split)
            except DataError as error:
                raise DataError(f"{error}\n{_missing(config, config_name)}") from None
        training = read_coco(root, config.train) if train else None
        validation = read_coco(root, config.val) if config.val else None
    else:
        training = read_voc(root, config.train) if train else None
        validation = read_voc(root, config.val) if config.val else None
        training, validation = _joint_classes(config, training, validation)
    if training and validation and training.classes != validation.classes:
        raise DataError(
            f"training and validation have different classes:\n  {training.name}: {', '.join(training.classes)}\n"
            f"  {validation.name}: {', '.join(validation.classes)}"
        )
    return Source(training, validation, read_image)


def describe(records: Records, objects: TrainObjects) -> str:
    """What the log says of a set: images, objects, and what training leaves out and why."""
    empty = int((records.offsets[1:] == records.offsets[:-1]).sum())
    text = f"{records.name}: {len(records)} images ({empty} without objects), "
    text += f"{len(records.labels)} objects of {len(records.classes)} classes"
    left_out = ", ".join(f"{count} {reason}" for reason, count in objects.dropped.items())
    return (
        text
        + (f"; left out of training: {left_out}" if left_out else "")
        + (f"; {objects.clipped} clipped" if objects.clipped else "")
    )


def _joint_classes(
    config: DataConfig, train: Records | None, val: Records | None
) -> tuple[Records | None, Records | None]:
    """VOC files name only the classes that occur, and either of two small sets may lack some of the other's."""
    if train is None or val is None or train.classes == val.classes:
        return train, val
    union = sorted({*train.classes, *val.classes})
    for records, other in ((train, val), (val, train)):
        if absent := sorted(set(other.classes) - set(records.classes)):
            _LOG.warning("%s has no object of %s", records.name, ", ".join(absent))
    return read_voc(config.root, config.train, union), read_voc(config.root, str(config.val), union)


def _count(text: str | None, key: str) -> int:
    if text is None or not str(text).isdigit() or int(text) < 1:
        raise DataError(f"data.format=shapes wants a number of pictures as data.{key}, got {text!r}")
    return int(text)


def _missing(config: DataConfig, config_name: str) -> str:
    name = config_name or "the configuration"
    dataset = "coco2014" if config.format == "coco" and "2014" in config.train else config.format
    layout = (
        "annotations/instances_SPLIT.json and SPLIT/ with the pictures"
        if config.format == "coco"
        else "ImageSets/Main/SET.txt, Annotations/ and JPEGImages/, or year folders with them"
    )
    return (
        f"no data: {name} expects {config.format.upper()} under {config.root} (seen from {Path.cwd()}), with {layout}.\n"
        f"  to fetch it there:   python datasets/prepare.py {dataset} --root {config.root}\n"
        f"  your own folder:     data.format={config.format} data.root=FOLDER data.train=SPLIT data.val=SPLIT\n"
        f"  without any data:    python tools/train_net.py --config quickstart.yaml"
    )
