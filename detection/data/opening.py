"""Open the datasets that a configuration names, with one error message where the data are missing."""

import contextlib
import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from detection.config import DataConfig
from detection.data.annotations import Annotations, DataError, TrainObjects
from detection.data.coco import annotation_file
from detection.data.formats import BUILT_IN, SYNTHETIC, get_format, is_built_in
from detection.data.image import UnreadableImage, read_image
from detection.data.loader import ImageReader
from detection.data.recognise import find_data
from detection.data.splitting.parts import limit_images, read_parts
from detection.data.splitting.split import Split, parse_split
from detection.data.synthetic import VAL_SEED, draw_image, shapes_records
from detection.data.voc import has_splits

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The datasets of a run, either of which may be None, the function that reads their images, and the split that they are
    parts of, where they are."""

    train: Annotations | None
    val: Annotations | None
    read: ImageReader
    split: Split | None = None

    @property
    def records(self) -> Annotations:
        """Return the dataset that defines the classes: training, else validation.

        Raises:
            DataError: there is neither.
        """
        records = self.train or self.val
        if records is None:
            raise DataError("neither data.train nor data.val is given")
        return records


def open_source(
    config: DataConfig,
    *,
    train: bool = True,
    config_name: str = "",
    split_file: Path | None = None,
    channels: int = 3,
) -> Source:
    """Read the annotations of the datasets that the configuration names; images are not decoded.

    Args:
        config: the data section.
        train: also read the training set; an evaluation needs none.
        config_name: for the error message.
        split_file: of a run, whose split is used where ``data.val`` asks for one.
        channels: of the images (``model.in_channels``).

    Raises:
        DataError: a folder or a split is missing (says what was expected, how to download it, and what runs without
            it), or training and validation have different classes (lists both).
    """
    if config.format == SYNTHETIC:
        training = shapes_records(_count(config.train, "train"), config.seed) if train else None
        # another seed, so that the two share no image
        validation = shapes_records(_count(config.val, "val"), config.seed + VAL_SEED) if config.val else None
        return _limited(config, Source(training, validation, draw_image))
    config = find_data(config)
    data_format, root = get_format(config.format), Path(config.root).expanduser()
    if is_built_in(config.format):
        _require_files(config, root, train, config_name)
    parts = read_parts(config, functools.partial(data_format.read, root), train=train, split_file=split_file)
    read = data_format.read_image
    if read is read_image:
        read = functools.partial(read_image, max_pixels=config.max_pixels, channels=channels)
        for records in (parts.train, parts.val) if channels not in (1, 3) else ():
            if records is not None and len(records):
                _require_channels(read, records.files[0])
    return _limited(config, Source(*_same_classes(config, parts.train, parts.val), read, parts.split))


def _limited(config: DataConfig, source: Source) -> Source:
    """Return the source with at most ``data.limit`` images of each set."""
    train, val = (limit_images(records, config.limit, config.seed) for records in (source.train, source.val))
    return replace(source, train=train, val=val)


def _require_channels(read: ImageReader, file: str) -> None:
    """Raise WrongChannels for a data set whose first image has another number of channels, before a run begins."""
    with contextlib.suppress(UnreadableImage, OSError):  # which training and evaluation report
        read(file)


def _same_classes(
    config: DataConfig, train: Annotations | None, val: Annotations | None
) -> tuple[Annotations | None, Annotations | None]:
    """Return both datasets with the same classes, matched by name: the training set's, or the union where a format's splits
    list only the classes that occur.

    Raises:
        DataError: the training set has no classes, or the validation set has objects of a class that training has not.
    """
    data_format = get_format(config.format)
    if train is None or val is None or train.classes == val.classes:
        classes = () if train is None else train.classes
    else:
        classes = train.classes if data_format.lists_classes else union(train.classes, val.classes)
    if train is not None and not train.classes:
        raise DataError(f"{train.name}: no classes, none of its {len(train)} images has an object")
    if train is None or val is None:
        return train, val
    for records, other in ((train, val), (val, train)):
        if missing := sorted(set(other.classes) - set(records.classes)):
            _LOG.warning("%s has no object of %s", records.name, ", ".join(missing))
    renumber = not data_format.own_ids
    return train.with_classes(classes, renumber=renumber), val.with_classes(classes, renumber=renumber)


def union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes of two splits: in order where one has all of the other's, else sorted."""
    both = {*first, *second}
    return next((classes for classes in (first, second) if len(classes) == len(both)), tuple(sorted(both)))


def _require_files(config: DataConfig, root: Path, train: bool, config_name: str) -> None:
    """Raise DataError, which says how to get the data, where the folder or a split of it is missing."""
    if not root.exists() or (config.format == "voc" and not has_splits(root)):
        raise DataError(_missing_message(config, config_name))
    if config.format == "coco":
        own_val = [config.val] if config.val and parse_split(config.val) is None else []
        for split in ([config.train] if train or not own_val else []) + own_val:
            try:
                annotation_file(root, split)
            except DataError as error:
                raise DataError(f"{error}\n{_missing_message(config, config_name)}") from None


def describe(records: Annotations, objects: TrainObjects) -> str:
    """Return a summary for the log: images, objects, and the objects dropped for training by reason."""
    empty = int((records.offsets[1:] == records.offsets[:-1]).sum())
    text = f"{records.name}: {len(records)} images ({empty} without objects), "
    text += f"{len(records.labels)} objects of {len(records.classes)} classes"
    dropped = ", ".join(f"{count} {reason}" for reason, count in objects.dropped.items())
    return (
        text
        + (f"; dropped for training: {dropped}" if dropped else "")
        + (f"; {objects.clipped} clipped" if objects.clipped else "")
    )


def _count(text: str | None, key: str) -> int:
    if text is None or not str(text).isdigit() or int(text) < 1:
        raise DataError(f"data.format=shapes expects a number of images as data.{key}, got {text!r}")
    return int(text)


def _missing_message(config: DataConfig, config_name: str) -> str:
    name = config_name or "the configuration"
    dataset = "coco2014" if config.format == "coco" and "2014" in config.train else config.format
    download = f"  to download it:      python datasets/prepare.py {dataset} --root {config.root}\n"
    return (
        f"no data found: {name} expects {config.format.upper()} under {config.root} (working directory {Path.cwd()}), "
        f"with {BUILT_IN[config.format].layout}.\n"
        f"{download if config.format in ('coco', 'voc') else ''}"
        f"  to use your folder:  data.format={config.format} data.root=FOLDER data.train=SPLIT data.val=SPLIT\n"
        f"  without any data:    python tools/train_net.py --config quickstart.yaml"
    )
