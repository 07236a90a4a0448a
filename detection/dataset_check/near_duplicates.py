"""Images of the training and validation sets that look the same without being the same file."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from detection.data.annotations import Annotations
from detection.data.issues import Issue
from detection.data.splitting.perceptual_hash import hash_images, near_pairs
from detection.data.splitting.split import MAX_HASHED
from detection.utils.progress import progress_bar


def near_across(splits: Mapping[str, Annotations], root: str, known: Collection[str] = ()) -> Iterable[Issue]:
    """Yield an issue for each image that looks like one of an earlier split, with the nearest of them.

    Args:
        splits: the sets by name; with more than 20,000 images together, an evenly spaced sample of each is compared.
        root: of the data, which names the cache of the images' hashes.
        known: files that are reported as the same image already.
    """
    if len(splits) < 2:
        return
    total = sum(map(len, splits.values()))
    step = max(1, -(-total // MAX_HASHED))
    rows = [(k, file) for k, records in enumerate(splits.values()) for file in list(records.files)[::step]]
    with progress_bar() as bar:
        task = bar.add_task("comparing images", total=None, visible=False)

        def show(done: int, count: int) -> None:
            bar.update(task, completed=done, total=count, visible=True)

        hashes, readable = hash_images([file for _, file in rows], root, show)
    kept = np.flatnonzero(readable)
    first, same_as = np.unique(hashes[kept], return_index=True, return_inverse=True)[1:]
    pairs = [(int(a), int(b), d) for a, b, d in near_pairs(hashes[kept]).tolist()]
    nearest: dict[int, tuple[int, int]] = {}  # a later split's image -> (distance, the earlier one's)
    for a, b, distance in pairs:
        one, other = sorted((int(kept[a]), int(kept[b])))
        if rows[one][0] != rows[other][0]:
            nearest[other] = min(nearest.get(other, (distance, one)), (distance, one))
    for k, row in enumerate(kept.tolist()):  # near_pairs has the first of several equal hashes alone
        equal = int(kept[first[same_as[k]]])
        if row not in nearest and equal in nearest and rows[equal][0] == rows[row][0]:
            nearest[row] = nearest[equal]
    names = list(splits)
    for row, (distance, one) in sorted(nearest.items()):
        if rows[row][1] not in known:
            found = f"looks like {rows[one][1]} ({names[rows[one][0]]}), {distance} of 64 bits differ"
            yield Issue("image like another in train and val", rows[row][1], None, found)
