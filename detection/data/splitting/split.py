"""One annotated set as training, validation and test images: ``data.val=0.2``, ``data.val=split:0.1:0.1``.

The split depends on the images, ``data.seed`` and the fractions alone. A run writes it to split.json, which resuming and
evaluating it read.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import Annotations, DataError, first_few
from detection.data.splitting.perceptual_hash import MAX_DISTANCE, hash_images, near_pairs
from detection.data.splitting.stratify import class_presence, stratify
from detection.utils.atomic_io import write_json
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
FILE = "split.json"  # in a run's folder
PARTS = ("train", "val", "test")
MAX_HASHED = 20_000  # images; more are not compared, since decoding them would hold up a run for minutes
_VERSION = 1
_PREFIX = "split:"
_FRACTION = re.compile(r"0?\.\d+")


@dataclass(frozen=True)
class SplitRequest:
    """What ``data.val`` asks for.

    Attributes:
        fractions: of the images, for train, val and test; none where ``file`` has the split, or a run's folder.
        part: val or test, which of them is evaluated.
        file: a split.json of an earlier run.
    """

    fractions: tuple[float, float, float] | None
    part: str = "val"
    file: Path | None = None


def parse_split(text: str | None) -> SplitRequest | None:
    """Return what ``data.val`` asks for: "0.2", "split:0.2", "split:0.1:0.1" (val and test), "split:FILE.json",
    "split:FILE.json:test" or "split:test"; None where it names a set of its own.

    Raises:
        DataError: it begins with "split:", or is a fraction, and is none of these.
    """
    if text is None or not (text.startswith(_PREFIX) or _FRACTION.fullmatch(text)):
        return None
    values = text.removeprefix(_PREFIX).split(":")
    if all(_FRACTION.fullmatch(value) for value in values) and len(values) in (1, 2):
        val, test = (float(value) for value in (*values, "0")[:2])
        if val and val + test < 1:
            return SplitRequest((1 - val - test, val, test))
    elif values[-1] in PARTS[1:] or values[-1].endswith(".json"):
        part = values.pop() if values[-1] in PARTS[1:] else "val"
        return SplitRequest(None, part, Path(":".join(values)).expanduser() if values else None)
    raise DataError(
        f"data.val={text!r} is no split: write 0.2 (a fifth of data.train's images), split:0.1:0.1 (val and test, which "
        "together leave some to train on), split:FILE.json (of an earlier run), or split:test (that part of the run's own)"
    )


@dataclass(frozen=True)
class Split:
    """The parts of a set.

    Attributes:
        images: names of the images of train, val and test, relative to the data's folder.
        about: where it comes from: data, fractions, seed, images that look the same, objects by class.
    """

    images: dict[str, list[str]]
    about: dict[str, Any] = field(default_factory=dict)

    def select(self, records: Annotations, root: Path) -> dict[str, Annotations]:
        """Return the parts of a set, by name; images that the split does not name are in none, with a warning.

        Raises:
            DataError: a part that the split has is empty, since none of its images is in the data.
        """
        part_of = {name: part for part, names in self.images.items() for name in names}
        names = image_names(records, root)
        parts = np.array([PARTS.index(part_of[name]) if name in part_of else -1 for name in names])
        if unknown := [name for name in names if name not in part_of]:
            _LOG.warning("%d images are not in the split and are left out: %s", len(unknown), first_few(unknown))
        if missing := len(part_of) - len(part_of.keys() & {*names}):
            _LOG.warning("%d images of the split are not in %s any more", missing, records.name)
        result = {}
        for k, part in enumerate(PARTS):
            chosen = dataclasses.replace(records, name=f"{records.name} ({part} of the split)").select(parts == k)
            if self.images.get(part) and not len(chosen):
                raise DataError(f"none of the split's {len(self.images[part])} {part} images is in {records.name}")
            result[part] = chosen if part == "train" else dataclasses.replace(chosen, issues=())
        return result

    def write(self, path: Path) -> None:
        """Write the split as a JSON file."""
        write_json(path, {"version": _VERSION, **self.about, "images": self.images})


def read_split_file(path: Path) -> Split:
    """Read a split.json.

    Raises:
        DataError: there is none, or it is not one; names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = content.pop("images")
        if content.pop("version") != _VERSION or not {*images} <= {*PARTS}:
            raise ValueError("of another version")
        return Split({part: [str(name) for name in images.get(part, [])] for part in PARTS}, content)
    except FileNotFoundError:
        raise DataError(
            f"no split in {path}: give the split.json of a run, or a fraction such as data.val=0.2"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not the split.json of a run: {error}") from None


def image_names(records: Annotations, root: Path) -> list[str]:
    """Return the images' files relative to ``root``, with forward slashes; those elsewhere as they are."""
    prefix = f"{root}/"
    return [file.removeprefix(prefix) for file in records.files]


def make_split(records: Annotations, fractions: Sequence[float], seed: int, root: Path) -> Split:
    """Split a set by iterative stratification, images that look the same on one side.

    Args:
        records: the whole set.
        fractions: for train, val and test; their sum is 1.
        seed: of the split.
        root: of the data, which names the cache of the images' hashes.

    Raises:
        DataError: fewer images than parts.
    """
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(records) < wanted:
        raise DataError(f"{records.name}: {len(records)} images cannot be split into {wanted} parts")
    unit_of, near = same_image_units(records, root, min(fraction for fraction in fractions if fraction))
    parts = stratify(class_presence(records), unit_of, fractions, seed)
    names = image_names(records, root)
    images = {part: [names[i] for i in np.flatnonzero(parts == k).tolist()] for k, part in enumerate(PARTS)}
    counts = {part: _class_counts(records, parts == k) for k, part in enumerate(PARTS) if fractions[k]}
    about = {
        "set": records.name,
        "fractions": named_fractions(fractions),
        "seed": seed,
        "near_same": near,
        "objects": {name: {part: of[name] for part, of in counts.items()} for name in records.classes},
    }
    return Split(images, about)


def named_fractions(fractions: Sequence[float]) -> dict[str, float]:
    """Return the fractions of train, val and test by name, as split.json has them."""
    return dict(zip(PARTS, (round(fraction, 6) for fraction in fractions), strict=True))


def describe_split(split: Split) -> str:
    """Return one or two lines about a split: sizes, images that look the same, classes that a part lacks."""
    sizes = ", ".join(f"{len(names)} {part}" for part, names in split.images.items() if names)
    text = f"split into {sizes} images, by class, seed {split.about.get('seed')}"
    near = split.about.get("near_same", {})
    if near.get("groups"):
        text += f"; {near['images']} images look like another one and stay with it ({near['groups']} groups)"
    for part in PARTS:
        lacking = [
            name for name, of in split.about.get("objects", {}).items() if of.get(part) == 0 and any(of.values())
        ]
        if lacking:
            text += (
                f"\n{part} has no object of {len(lacking)} classes, of which there are too few: {first_few(lacking)}"
            )
    return text


def same_image_units(
    records: Annotations, root: Path, smallest: float
) -> tuple[NDArray[np.int64], dict[str, int | str]]:
    """Group the images that look the same, or are linked by others that do.

    Args:
        records: the set.
        root: names the cache.
        smallest: fraction of the images in the smallest part. Where a group would be larger than that, as frames of a film
            are, images must be more alike to be one.

    Returns:
        int64 [N], the group of each image, and numbers about the groups.
    """
    count = len(records)
    if count > MAX_HASHED:
        note = f"more than {MAX_HASHED} images: not compared"
        _LOG.warning("images that look the same may come to lie on both sides of the split: %s", note)
        return np.arange(count), {"images": 0, "groups": 0, "note": note}
    with progress_bar() as bar:
        task = bar.add_task("comparing images", total=None, visible=False)  # most often all are in the cache

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        hashes, readable = hash_images(list(records.files), str(root), show)
    rows = np.flatnonzero(readable)
    pairs = near_pairs(hashes[rows])
    pairs[:, :2] = rows[pairs[:, :2]]
    for distance in range(MAX_DISTANCE, -1, -2):
        unit_of = _components(count, pairs[pairs[:, 2] <= distance, :2])
        sizes = np.bincount(unit_of)
        if sizes.max(initial=1) <= max(2.0, smallest * count):
            break
    else:
        _LOG.warning("%d images look the same: they are split as if they did not", sizes.max())
        unit_of = _separate_large(unit_of, max(2.0, smallest * count))
        sizes = np.bincount(unit_of)
    if distance < MAX_DISTANCE:
        _LOG.warning(
            "many images look alike, as frames of a film do: only those within %d of 64 bits of each other's hash are kept "
            "on one side. Where the images are of several films or patients, split by those: data.train and data.val "
            "name sets of your own",
            distance,
        )
    grouped = sizes[sizes > 1]
    return unit_of, {"images": int(grouped.sum()), "groups": len(grouped), "distance": distance}


def _separate_large(unit_of: NDArray[np.int64], limit: float) -> NDArray[np.int64]:
    """Return the groups, with each image of those beyond ``limit`` alone."""
    sizes = np.bincount(unit_of)
    key = np.where(sizes[unit_of] > limit, len(unit_of) + np.arange(len(unit_of)), unit_of)
    return np.unique(key, return_inverse=True)[1].astype(np.int64)


def _components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the connected component of each of ``count`` nodes, int64 [count], numbered from 0 in order of their first."""
    parent = list(range(count))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs.tolist():
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    return np.unique([find(i) for i in range(count)], return_inverse=True)[1].astype(np.int64)


def _class_counts(records: Annotations, images: NDArray[np.bool_]) -> dict[str, int]:
    counted = images[records.image_of()] & ~records.crowd
    counts = np.bincount(records.labels[counted], minlength=len(records.classes) + 1)[1:]
    return dict(zip(records.classes, counts.tolist(), strict=True))
