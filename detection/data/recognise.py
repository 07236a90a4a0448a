"""``data.format=auto``: find a folder's format and splits by what lies there."""

import dataclasses
import itertools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detection.config import DataConfig
from detection.data.annotations import DataError
from detection.data.files import is_file
from detection.data.readers import labelme, openimages, tables, yolo
from detection.data.voc import folder_splits, image_sets, year_folders

_LOG = logging.getLogger(__name__)
AUTO = "auto"  # as data.format, and as data.train and data.val
_HEAD = 65536  # bytes of a JSON file that are looked at
_COCO = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_TRAIN = ("train", "train2017", "train2014", "trainval", "training", "default", ".")
_VAL = ("val", "valid", "validation", "val2017", "val2014", "minival", "dev", "test")
Recogniser = Callable[[Path], tuple[list[str], str] | None]


@dataclass(frozen=True)
class Recognised:
    """A format, the splits found, and what told it."""

    format: str
    splits: list[str]
    reason: str


def find_data(config: DataConfig) -> DataConfig:
    """Return the data section with ``auto`` replaced by what lies in its folder; logs the choice with its reason.

    With data.format=auto, data.train and data.val are looked for too where they are ``auto`` or have their default: the
    training split is the first of train, train2017, …, or the only one; the validation split the first of val, valid, …,
    test, else null. Any other data.format is left as it is.

    Raises:
        DataError: nothing is recognised, or two formats are; names them and the key to set.
    """
    if config.format != AUTO:
        return config
    root = Path(config.root).expanduser()
    found = recognise(root)
    default = DataConfig()
    train, val = config.train, config.val
    if train in (AUTO, default.train) and train not in found.splits:
        train = _training(found, root)
    if val in (AUTO, default.val) and val not in found.splits:
        val = next((name for name in _VAL if name in found.splits and name != train), None)
    _LOG.info(
        "%s: data.format=%s, since %s; data.train=%s data.val=%s (splits found: %s)",
        *(root, found.format, found.reason, train, "null" if val is None else val, ", ".join(found.splits)),
    )
    return dataclasses.replace(config, format=found.format, train=train, val=val)


def _training(found: Recognised, root: Path) -> str:
    names = [name for name in _TRAIN if name in found.splits] or (found.splits if len(found.splits) == 1 else [])
    if not names:
        listed = ", ".join(found.splits) or "none"
        raise DataError(
            f"{root}: which split is for training? {found.format} splits found: {listed}; give data.train=NAME data.val=NAME"
        )
    return names[0]


def recognise(root: Path) -> Recognised:
    """Return the format of a folder.

    Raises:
        DataError: nothing is recognised, or two formats are; names them and the key to set.
    """
    if not root.exists():
        raise DataError(f"no folder {root}: give data.root=FOLDER")
    found = [Recognised(name, *result) for name, test in RECOGNISERS.items() if (result := test(root)) is not None]
    if not found:
        raise DataError(
            f"{root}: no annotations recognised (tried {', '.join(RECOGNISERS)}; its entries are {_entries(root)}); "
            "give data.format=NAME data.train=SPLIT data.val=SPLIT"
        )
    if len(found) > 1:
        listed = "\n".join(f"  data.format={one.format}: {one.reason}" for one in found)
        raise DataError(f"{root}: more than one format is recognised; give one of\n{listed}")
    return found[0]


def _entries(root: Path) -> str:
    names = sorted(path.name for path in itertools.islice(root.iterdir(), 1000)) if root.is_dir() else [root.name]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "none"


def _coco(root: Path) -> tuple[list[str], str] | None:
    files = [
        *itertools.islice(sorted((root / "annotations").glob("*.json")), 50),
        *sorted(root.glob("*/_annotations.coco.json")),
        *itertools.islice(sorted(root.glob("*.json")), 50),
    ]
    found = [path for path in files if is_file(path) and _COCO.search(_head(path))]
    # captions and keypoints are not boxes alone
    found = [path for path in found if not path.name.startswith(("captions_", "person_keypoints_", "image_info_"))]
    splits = []
    for path in found:
        if path.name == "_annotations.coco.json":
            splits.append(path.parent.relative_to(root).as_posix())
        elif path.parent.name == "annotations":
            splits.append(path.stem.removeprefix("instances_"))
        else:
            splits.append(path.name)
    return (list(dict.fromkeys(splits)), f"{found[0].relative_to(root)} has COCO's lists") if found else None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _voc(root: Path) -> tuple[list[str], str] | None:
    years = year_folders(root)
    lists = [f for year in years for f in sorted((year / "ImageSets" / "Main").glob("*.txt")) if f.name[:2] != "._"]
    if lists:
        # aeroplane_train.txt is the image set of a class
        names = [f.stem for f in lists if "_" not in f.stem] or [f.stem for f in lists]
        return list(dict.fromkeys(names)), f"{lists[0].relative_to(root)} is an image set"
    splits = folder_splits(root)
    if not splits:
        return None
    return splits, f"XML files lie in {image_sets(root, splits[0])[0].annotations}"


RECOGNISERS: dict[str, Recogniser] = {
    "coco": _coco,
    "voc": _voc,
    "yolo": yolo.recognise,
    "csv": tables.recognise,
    "openimages": openimages.recognise,
    "labelme": labelme.recognise,
}
