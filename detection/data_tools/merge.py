"""Join datasets of any formats into one: ids are renumbered, classes joined by name, and files of one name kept apart."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import Annotations, DataError, Strings
from detection.data.formats import get_format, open_split
from detection.data.recognise import AUTO, RECOGNISERS, recognise
from detection.data_tools.folders import image_names


@dataclass(frozen=True)
class Part:
    """A split of a dataset that is merged.

    Attributes:
        format: of the dataset.
        root: its folder.
        split: what is read.
        into: the split that it becomes part of.
    """

    format: str
    root: Path
    split: str
    into: str


def parse_source(text: str) -> list[Part]:
    """Return the parts of ``FORMAT:ROOT[:SPLIT[=NAME]]``: a split, which becomes part of the split NAME (train or val where
    its own name says so), or all splits that are found; FORMAT may be auto.

    Raises:
        DataError: the text has another form, or no split is found.
    """
    name, colon, rest = text.partition(":")
    if not colon or not name or not rest:
        raise DataError(
            f"{text!r}: expected FORMAT:FOLDER or FORMAT:FOLDER:SPLIT, such as coco:data/coco:train2017=train"
        )
    root, split = Path(rest).expanduser(), ""
    if not root.exists() and ":" in rest:
        folder, _, split = rest.rpartition(":")
        root = Path(folder).expanduser()
    if not root.exists():
        raise DataError(f"{text!r}: no folder {root}")
    if name == AUTO:
        name = recognise(root).format
    get_format(name)  # an unknown one is named before anything is read
    if split:
        split, _, into = split.partition("=")
        return [Part(name, root, split, into or usual_name(split))]
    found = RECOGNISERS[name](root) if name in RECOGNISERS else None
    if found is None or not found[0]:
        raise DataError(f"{text!r}: no splits found: give FORMAT:FOLDER:SPLIT")
    return [Part(name, root, one, usual_name(one)) for one in found[0]]


def usual_name(split: str) -> str:
    """Return train, val or test for a split whose name says so (train2017, valid, VOC2007/test), else a file's name."""
    last = split.replace("\\", "/").rstrip("/").rpartition("/")[2]
    for name, pattern in (
        ("train", r"train(ing|val)?\d*|\.|default"),
        ("val", r"(mini)?val(id(ation)?)?\d*"),
        ("test", r"test\d*"),
    ):
        if re.fullmatch(pattern, last.partition("+")[0]):
            return name
    return re.sub(r"[^\w.-]+", "_", last).removesuffix(".json") or "train"


def merge(parts: Sequence[Part]) -> tuple[dict[str, Annotations], dict[str, list[str]]]:
    """Return the merged splits, with the classes of all parts in the order in which they appear, and the file names of each
    split's images, for :func:`write_dataset`.

    Raises:
        DataError: a part cannot be read, or there are none.
    """
    if not parts:
        raise DataError("nothing to merge: give --from FORMAT:FOLDER[:SPLIT] for each dataset")
    read = [(part, open_split(part.format, part.root, part.split)) for part in parts]
    classes = list(dict.fromkeys(name for _, records in read for name in records.classes))
    splits, names = {}, {}
    for into in dict.fromkeys(part.into for part in parts):
        mine = [(part, records.with_classes(classes)) for part, records in read if part.into == into]
        splits[into], names[into] = join(
            [records for _, records in mine], [part.root.resolve().name for part, _ in mine], into
        )
    ids = tuple(range(1, len(classes) + 1))
    return {name: replace(records, category_ids=ids) for name, records in splits.items()}, names


def join(sets: Sequence[Annotations], names: Sequence[str], name: str) -> tuple[Annotations, list[str]]:
    """Return sets of the same classes as one, with image ids from 1, and file names that differ: where two sets have one
    name, the second's images lie in a folder of that set's.

    Args:
        sets: to join.
        names: of the sets, for such folders.
        name: of the whole.
    """
    taken: set[str] = set()
    files, renamed = [], []
    for k, (records, source) in enumerate(zip(sets, names, strict=True)):
        mine = image_names(records)
        prefixes = ("", f"{source}/", f"{source}_{k + 1}/")
        chosen = next(c for c in ([p + n for n in mine] for p in prefixes) if not taken & {_stem(n) for n in c})
        taken |= {_stem(n) for n in chosen}
        files += list(records.files)
        renamed += chosen

    columns: dict[str, Any] = {
        key: np.concatenate([getattr(records, key) for records in sets])
        for key in ("sizes", "boxes", "labels", "areas", "crowd", "difficult")
    }
    merged = replace(
        sets[0],
        name=name,
        image_ids=list(range(1, len(files) + 1)),
        files=Strings(files),
        offsets=np.concatenate(([0], np.cumsum(np.concatenate([np.diff(r.offsets) for r in sets])))),
        **columns,
        object_names=None,
        sources=None,
        issues=(),
    )
    return merged, renamed


def _stem(name: str) -> str:
    return (name.rpartition(".")[0] or name).casefold()


def sources_of(texts: Iterable[str]) -> list[Part]:
    """Return the parts of several ``FORMAT:ROOT[:SPLIT]``, as :func:`parse_source`."""
    return [part for text in texts for part in parse_source(text)]
