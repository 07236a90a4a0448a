"""Iterative stratification: assign images with several classes to parts of given sizes, each class in proportion.

Sechidis, Tsoumakas and Vlahavas, On the stratification of multi-label data (ECML 2011), algorithm 1: the class with the
fewest images left is dealt out first, each image to the part that lacks most of that class. Here what is dealt out is a unit
of one or more images that must stay together, images without objects are a class of their own, and a class of at least as
many units as there are parts is wanted once at least by each.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import Annotations

_MAX_MOVES, _CANDIDATES = 200, 2000  # of units between parts at the end, and units looked at for each


def class_presence(records: Annotations) -> NDArray[np.bool_]:
    """Return which classes each image has: bool [N, K + 1], the last column for images without objects. Crowd regions do not
    count."""
    present = np.zeros((len(records), len(records.classes) + 1), dtype=bool)
    counted = ~records.crowd
    present[records.image_of()[counted], records.labels[counted] - 1] = True
    present[:, -1] = ~present.any(axis=1)
    return present


def stratify(
    presence: NDArray[np.bool_], unit_of: NDArray[np.int64], fractions: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Assign units of images to parts.

    Args:
        presence: bool [N, C], which classes each image has; each image has one at least.
        unit_of: int64 [N], the unit of each image, 0..U-1; all images of a unit go to the same part.
        fractions: of the images, for each of P parts; their sum is 1.
        seed: decides between equals.

    Returns:
        int64 [N], the part of each image.
    """
    units = int(unit_of.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    counts = np.zeros((units, presence.shape[1]), dtype=np.int64)  # images of each class in each unit
    np.add.at(counts, unit_of, presence)
    sizes = np.bincount(unit_of, minlength=units)
    wanted = _wanted(counts, fractions)  # [P, C]
    room = np.array(fractions) * len(presence)  # images that each part still takes
    part_of = np.full(units, -1, dtype=np.int64)
    left = counts.sum(axis=0)
    order = rng.permutation(units)
    members = [order[counts[order, c] > 0] for c in range(counts.shape[1])]
    while (open_classes := np.flatnonzero(left)).size:
        rarest = int(open_classes[np.argmin(left[open_classes])])
        waiting = members[rarest][part_of[members[rarest]] < 0]
        for unit in waiting[np.argsort(-counts[waiting, rarest], kind="stable")].tolist():
            part = _neediest(wanted[:, rarest], room)
            part_of[unit] = part
            wanted[part] -= counts[unit]
            room[part] -= sizes[unit]
            left -= counts[unit]
    _give_missing(part_of, counts, len(fractions))
    _balance_sizes(part_of, counts, sizes, fractions, rng)
    return part_of[unit_of]


def _wanted(counts: NDArray[np.int64], fractions: Sequence[float]) -> NDArray[np.float64]:
    """Return how many images of each class each part wants, float64 [P, C]: its fraction, but one at least."""
    totals, units = counts.sum(axis=0).astype(np.float64), (counts > 0).sum(axis=0)
    wanted = np.outer(fractions, totals)
    nonempty = np.array(fractions) > 0
    enough = units >= nonempty.sum()
    wanted[np.ix_(nonempty, enough)] = np.maximum(wanted[np.ix_(nonempty, enough)], 1.0)
    largest = int(np.argmax(fractions))
    wanted[largest] += totals - wanted.sum(axis=0)  # what the others get more, the largest part gets less
    return wanted


def _neediest(wanted: NDArray[np.float64], room: NDArray[np.float64]) -> int:
    """Return the part that lacks most of a class, of equals the one that lacks most images."""
    best = np.flatnonzero(wanted >= wanted.max() - 1e-9)
    return int(best[np.argmax(room[best])])


def _give_missing(part_of: NDArray[np.int64], counts: NDArray[np.int64], parts: int) -> None:
    """Move a unit to each part that has none of a class of which another part has two, where that takes no class from it."""
    used = [p for p in range(parts) if (part_of == p).any()]
    for c in np.argsort((counts > 0).sum(axis=0)).tolist():
        for part in used:
            units = np.flatnonzero(counts[:, c])
            if not len(units) or (part_of[units] == part).any():
                continue
            for unit in sorted(units.tolist(), key=lambda u: (int(counts[u].sum()), u)):
                same = np.flatnonzero(part_of == part_of[unit])
                others = counts[same[same != unit]].sum(axis=0)
                if (others[counts[unit] > 0] > 0).all():
                    part_of[unit] = part
                    break


def _balance_sizes(
    part_of: NDArray[np.int64],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    fractions: Sequence[float],
    rng: np.random.Generator,
) -> None:
    """Move units from parts that have more images than their fraction to those that have fewer, the ones first whose classes
    are then nearest to their own fractions; none that would take a class from a part."""
    total, parts = int(sizes.sum()), len(fractions)
    targets = np.outer(fractions, counts.sum(axis=0))  # [P, C]
    for _ in range(_MAX_MOVES):
        room = np.array(fractions) * total - np.bincount(part_of, weights=sizes, minlength=parts)
        source, target = int(np.argmin(room)), int(np.argmax(room))
        inside = rng.permutation(np.flatnonzero(part_of == source))[:_CANDIDATES]
        # a move must bring both nearer: more than half of it has to be missing there and superfluous here
        inside = inside[(sizes[inside] < 2 * room[target]) & (sizes[inside] < -2 * room[source])]
        held = counts[part_of == source].sum(axis=0)
        inside = inside[((counts[inside] == 0) | (counts[inside] < held)).all(axis=1)]
        if not len(inside):
            return
        lack = [targets[p] - counts[part_of == p].sum(axis=0) for p in (source, target)]
        moved = counts[inside]
        cost = np.abs(lack[0] + moved).sum(axis=1) + np.abs(lack[1] - moved).sum(axis=1)
        part_of[inside[np.argmin(cost)]] = target
