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
    step = -(-total // MAX_HASHED)
    rows = [(k, file) for k, records in enumerate(splits.values()) for file in list(records.files)[::step]]
    with progress_bar() as bar:
        task = bar.add_task("comparing images", total=None, visible=False)

        def show(done: int, count: int) -> None:
            bar.update(task, completed=done, total=count, visible=True)

        hashes, readable = hash_images([file for _, file in rows], root, show)
    kept = np.flatnonzero(readable)
    nearest: dict[int, tuple[int, int]] = {}  # a later split's image -> (distance, the earlier one's)
    for a, b, distance in near_pairs(hashes[kept]).tolist():
        first, second = sorted((int(kept[a]), int(kept[b])))
        if rows[first][0] != rows[second][0] and (distance, first) < nearest.get(second, (65, 0)):
            nearest[second] = (distance, first)
    names = list(splits)
    for second, (distance, first) in sorted(nearest.items()):
        if rows[second][1] not in known:
            found = f"looks like {rows[first][1]} ({names[rows[first][0]]}), {distance} of 64 bits differ"
            yield Issue("image like another in train and val", rows[second][1], None, found)
