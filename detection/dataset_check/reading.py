"""Read a split for checking, by the reader that training uses: what training refuses is left out, and reported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from detection.config import DataConfig
from detection.data.annotations import Annotations, DataError
from detection.data.cache import file_stamp
from detection.data.coco import annotation_file, image_folders
from detection.data.files import in_threads, stamp, walk
from detection.data.formats import BUILT_IN, SYNTHETIC, get_format
from detection.data.image import SUFFIXES
from detection.data.issues import Issue
from detection.data.splitting.parts import limit_images, read_parts
from detection.data.voc import image_sets


def read_split(config: DataConfig, split: str) -> Annotations:
    """Read a split with the issues of its annotations.

    Raises:
        DataError: the split does not exist or has no image that can be used, or the format is the synthetic dataset's.
    """
    root = Path(config.root).expanduser()
    if config.format == SYNTHETIC:
        raise DataError(
            "nothing to check: data.format=shapes is a synthetic dataset; give data.format=voc or data.format=coco"
        )
    data_format = get_format(config.format)
    if config.format in BUILT_IN and not root.exists():
        raise DataError(f"no folder {root}: give data.root=FOLDER")
    annotations = data_format.check(root, split)
    if config.format == "coco":
        annotations = replace(annotations, issues=(*annotations.issues, *_unused_files(annotations, root)))
    return annotations


def read_sets(config: DataConfig, split_file: Path | None = None) -> dict[str, Annotations]:
    """Read the sets of a run, train and val, with the issues of their annotations, as :func:`open_source` divides and limits
    them.

    Args:
        config: the data section.
        split_file: of a run, whose split is used where ``data.val`` asks for one.

    Raises:
        DataError: as :func:`read_split`, and for a split that cannot be made.
    """
    parts = read_parts(config, lambda split: read_split(config, split), split_file=split_file)
    limited = {
        name: limit_images(records, config.limit, config.seed)
        for name, records in vars(parts).items()
        if name != "split"
    }
    return {name: records for name, records in limited.items() if records is not None}


def _unused_files(annotations: Annotations, root: Path) -> list[Issue]:
    """Return an issue for each image in the split's folder that the annotations do not list; none for the root itself, which
    other splits' images share."""
    folder = annotations.folder
    if not folder or Path(folder) == root:
        return []
    used = set(annotations.files)
    files = (f"{folder}/{name}" for name in walk(Path(folder)) if name.lower().endswith(SUFFIXES))
    return [Issue("unused file", file) for file in files if file not in used]


def source_stamps(config: DataConfig, split: str) -> list[Any] | None:
    """Return the stamps of all annotation files and folders that :func:`read_split` reads, as a cache key; None for a
    registered format, of which they are not known."""
    root = Path(config.root).expanduser()
    if config.format not in ("coco", "voc"):
        stamps = BUILT_IN[config.format].stamps if config.format in BUILT_IN else None
        return None if stamps is None else [stamps(root, split)]
    if config.format == "coco":
        path = annotation_file(root, split)
        return [file_stamp(p) for p in (path, *image_folders(root, split, path)) if p.exists()]
    paths = []
    for image_set in image_sets(root, split):
        xmls = [image_set.annotations / name for name in walk(image_set.annotations) if name.lower().endswith(".xml")]
        paths += [image_set.source, image_set.images, *xmls]
    return in_threads(stamp, paths)
