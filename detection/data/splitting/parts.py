"""The training and validation sets that a configuration names: as they are, or parts of a split, and limited."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from detection.config import DataConfig
from detection.data.annotations import Annotations, DataError
from detection.data.splitting.split import (
    PARTS,
    Split,
    SplitRequest,
    describe_split,
    image_names,
    make_split,
    named_fractions,
    parse_split,
    read_split_file,
)
from detection.data.splitting.stratify import class_presence, stratify
from detection.utils.distributed import is_leader, share, world_size

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """The sets of a run.

    Attributes:
        train, val: the sets; None where the configuration, or the caller, wants none.
        split: that they are parts of; None where they are sets of their own.
    """

    train: Annotations | None
    val: Annotations | None
    split: Split | None = None


def read_parts(
    config: DataConfig, read: Callable[[str], Annotations], *, train: bool = True, split_file: Path | None = None
) -> Parts:
    """Read the sets that a configuration names.

    Args:
        config: the data section.
        read: reads a set by its name.
        train: also return the training set.
        split_file: of a run, used where it exists and ``data.val`` asks for a split: the run's own comes before a new one.

    Raises:
        DataError: ``data.val`` asks for a split that cannot be made, or is not there.
    """
    request = parse_split(config.val)
    if request is None:
        return Parts(read(config.train) if train else None, read(config.val) if config.val else None)
    whole, root = read(config.train), Path(config.root).expanduser()
    split = _find_split(config, request, whole, root, split_file)
    parts = split.select(whole, root)
    if not len(parts[request.part]):
        raise DataError(f"data.val={config.val}: the split has no {request.part} images")
    return Parts(parts["train"] if train else None, parts[request.part], split)


def limit_images(records: Annotations | None, limit: int | None, seed: int) -> Annotations | None:
    """Return at most ``limit`` images, drawn by ``seed``, with every class in proportion and at least once where the number
    allows it; the set itself where it has no more."""
    if records is None or limit is None or len(records) <= limit:
        return records
    presence = class_presence(records)
    chosen = _cover(presence[:, :-1], limit, seed)
    rest = np.flatnonzero(~chosen)
    fraction = max(0, limit - int(chosen.sum())) / len(rest)
    parts = stratify(presence[rest], np.arange(len(rest)), (fraction, 1 - fraction), seed)
    chosen = _exactly(chosen, rest[parts == 0], limit, seed)
    kept = presence[chosen, :-1].any(axis=0).sum()
    _LOG.info(
        "data.limit=%d: %s of %d images is cut to %d, which have %d of its %d classes",
        *(limit, records.name, len(records), limit, kept, presence[:, :-1].any(axis=0).sum()),
    )
    return dataclasses.replace(records.select(chosen), name=f"{records.name} ({limit} of {len(records)} images)")


def _cover(presence: NDArray[np.bool_], limit: int, seed: int) -> NDArray[np.bool_]:
    """Return at most ``limit`` images with as many of the classes as a greedy choice finds, the rarest first: bool [N]."""
    chosen = np.zeros(len(presence), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(presence))
    missing = presence.any(axis=0)
    while missing.any() and chosen.sum() < limit:
        rarest = int(np.argmin(np.where(missing, presence.sum(axis=0), len(presence) + 1)))
        candidates = order[presence[order, rarest]]
        best = int(candidates[np.argmax(presence[candidates][:, missing].sum(axis=1))])
        chosen[best] = True
        missing &= ~presence[best]
    return chosen


def _exactly(chosen: NDArray[np.bool_], more: NDArray[np.int64], limit: int, seed: int) -> NDArray[np.bool_]:
    """Return bool [N] with ``limit`` True: those chosen, of ``more``, and random ones where these are too few."""
    chosen, rng = chosen.copy(), np.random.default_rng((seed, 1))
    chosen[rng.permutation(more)[: limit - int(chosen.sum())]] = True
    others = rng.permutation(np.flatnonzero(~chosen))
    chosen[others[: limit - int(chosen.sum())]] = True
    return chosen


def _find_split(
    config: DataConfig, request: SplitRequest, whole: Annotations, root: Path, split_file: Path | None
) -> Split:
    if request.file is not None:
        return read_split_file(request.file)
    if split_file is not None and split_file.is_file():
        split = read_split_file(split_file)
        fractions = split.about.get("fractions")
        if request.fractions and fractions != (asked := named_fractions(request.fractions)):
            _LOG.warning("the split is that of %s, %s; data.val asks for %s", split_file, fractions, asked)
        else:
            _LOG.info("the split is that of %s", split_file)
        return split
    if request.fractions is None:
        raise DataError(f"data.val={config.val}: there is no {split_file or 'split.json'}: give split:FILE.json:test")
    # rank 0 decodes the images alone, and the others take its parts
    part_of, made = torch.zeros(len(whole), dtype=torch.int64), None
    if is_leader():
        made = make_split(whole, request.fractions, config.seed, root)
        _LOG.info("data.val=%s: %s", config.val, describe_split(made))
        index = {name: PARTS.index(part) for part, names in made.images.items() for name in names}
        part_of = torch.tensor([index[name] for name in image_names(whole, root)])
    if world_size() > 1:
        share([part_of], "split of the data")
    if made is not None:
        return made
    rows = list(zip(image_names(whole, root), part_of.tolist(), strict=True))
    return Split({part: [name for name, k in rows if k == i] for i, part in enumerate(PARTS)})
