"""Cut a dataset: by class, object size, list of files, or number of images."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from detection.data.annotations import Annotations, DataError

AREAS = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, float("inf")),
}  # COCO's, square pixels


def subset(
    records: Annotations,
    *,
    classes: Sequence[str] = (),
    size: tuple[float, float] | None = None,
    files: Sequence[str] | None = None,
    images: int | None = None,
    keep_empty: bool = False,
    seed: int = 0,
) -> Annotations:
    """Return a part of a dataset.

    Args:
        records: the dataset.
        classes: names in their new order; objects of other classes are left out. Empty keeps all.
        size: objects with an area from the first to below the second, in square pixels; others are left out.
        files: images of these names: as in the dataset, or the last part, with or without extension.
        images: this many of the images that are left, drawn by the seed, in their order.
        keep_empty: keep images all of whose objects were left out. Images that had none are kept where classes and size
            are not given.
        seed: of the drawing.

    Raises:
        DataError: a class or file that does not exist, fewer images than asked for, or nothing left; lists them.
    """
    if unknown := [name for name in classes if name not in records.classes]:
        raise DataError(f"{records.name}: no class {', '.join(unknown)}; there are {', '.join(records.classes)}")
    keep = np.ones(len(records.labels), dtype=bool)
    if classes:
        wanted = [k for k, name in enumerate(records.classes, 1) if name in classes]
        keep &= np.isin(records.labels, wanted)
    if size is not None:
        keep &= (records.areas >= size[0]) & (records.areas < size[1])
    rows = np.ones(len(records), dtype=bool) if files is None else _named(records, files)
    if (classes or size is not None) and not keep_empty:
        rows &= np.bincount(records.image_of()[keep], minlength=len(records)) > 0
    if images is not None:
        rows = _drawn(records, rows, images, seed)
    if not rows.any():
        raise DataError(f"{records.name}: no image is left")
    result = select_objects(records, keep).select(rows)
    if not classes:
        return result
    ids = dict(zip(records.classes, records.category_ids, strict=True))
    return dataclasses.replace(result.with_classes(classes), category_ids=tuple(ids[name] for name in classes))


def select_objects(records: Annotations, keep: np.ndarray) -> Annotations:
    """Return the objects for which bool [M] is True, with all images."""
    names = records.object_names
    counts = np.bincount(records.image_of()[keep], minlength=len(records))
    return dataclasses.replace(
        records,
        offsets=np.concatenate(([0], np.cumsum(counts))),
        **{key: getattr(records, key)[keep] for key in ("boxes", "labels", "areas", "crowd", "difficult")},
        object_names=None if names is None else [names[j] for j in np.flatnonzero(keep).tolist()],
    )


def _named(records: Annotations, files: Sequence[str]) -> np.ndarray:
    rows: dict[str, list[int]] = {}
    for i in range(len(records)):
        name = records.file_name(i).replace("\\", "/")
        last = name.rpartition("/")[2]
        for form in {name, last, os.path.splitext(name)[0], os.path.splitext(last)[0], records.files[i]}:
            rows.setdefault(form, []).append(i)
    if missing := [name for name in files if name not in rows]:
        raise DataError(f"{records.name}: no image {', '.join(missing[:3])} ({len(missing)} of {len(files)} names)")
    mask = np.zeros(len(records), dtype=bool)
    mask[[i for name in files for i in rows[name]]] = True
    return mask


def _drawn(records: Annotations, rows: np.ndarray, images: int, seed: int) -> np.ndarray:
    found = np.flatnonzero(rows)
    if not 1 <= images <= len(found):
        raise DataError(f"{records.name}: {images} images asked for, there are {len(found)} to choose from")
    mask = np.zeros(len(rows), dtype=bool)
    mask[np.random.default_rng(seed).choice(found, images, replace=False)] = True
    return mask


def parse_size(text: str) -> tuple[float, float]:
    """Return an area range of ``small``, ``medium``, ``large`` (COCO's), or ``MIN:MAX`` in pixels of the square root.

    Raises:
        ValueError: another text.
    """
    if text in AREAS:
        return AREAS[text]
    low, colon, high = text.partition(":")
    try:
        limits = float(low or 0), float(high or "inf")
    except ValueError:
        limits = -1.0, -1.0
    if not colon or not 0 <= limits[0] < limits[1]:
        raise ValueError(f"size {text!r}: expected {', '.join(AREAS)}, or MIN:MAX in pixels (square root of the area)")
    return limits[0] ** 2, limits[1] ** 2
