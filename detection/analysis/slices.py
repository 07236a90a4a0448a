"""AP and recall of parts of the data: by size, shape, crowding and place of the objects, and by groups of images."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.analysis.bootstrap import WeightedAP, summary
from detection.analysis.matching import Matches, average_precision, match, mean
from detection.analysis.scene import Floats, Pairs, Scene, pair_overlap


@dataclass(frozen=True)
class Bin:
    """Objects with a value in [low, high).

    Attributes:
        low, high: of the value.
        objects: how many.
        recall: at IoU 0.5, without a threshold; None without objects.
        recall75: at IoU 0.75.
        ap: AP50 of the objects; None where it is not computed.
    """

    low: float
    high: float
    objects: int
    recall: float | None
    recall75: float | None
    ap: float | None = None


def attributes(scene: Scene) -> dict[str, Floats]:
    """Return what objects are divided by, float64 [M] each: side (root of the area, pixels), aspect (height over width),
    crowding (highest IoU with another object of the image), objects (in the image), border (distance of the box to the
    nearest edge of its image over the box's mean side; NaN where the image's size is unknown)."""
    box = scene.object_box
    size = box[:, 2:] - box[:, :2]
    height, width = scene.sizes[scene.object_image, 0], scene.sizes[scene.object_image, 1]
    gaps = np.stack((box[:, 0], box[:, 1], width - box[:, 2], height - box[:, 3])).min(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        aspect = size[:, 1] / size[:, 0]
        border = np.clip(gaps, 0, None) / np.sqrt(scene.object_extent)
    border[(height == 0) | (width == 0)] = np.nan
    return {
        "side": np.sqrt(np.clip(scene.object_area, 0, None)),
        "aspect": aspect,
        "crowding": crowding(scene),
        "objects": np.bincount(scene.object_image, minlength=len(scene.image_ids))[scene.object_image].astype(
            np.float64
        ),
        "border": border,
    }


def crowding(scene: Scene) -> Floats:
    """Return each object's highest IoU with another object of its image, of any class, float64 [M]."""
    result = np.zeros(len(scene.object_image))
    starts = np.searchsorted(scene.object_image, np.arange(len(scene.image_ids) + 1))
    most = int(np.diff(starts).max(initial=0))
    for step in range(1, most):  # each object with the one ``step`` places after it in its image
        first = np.arange(len(result) - step)
        first = first[scene.object_image[first] == scene.object_image[first + step]]
        other = first + step
        overlap = pair_overlap(scene.object_box[first], scene.object_box[other])
        union = scene.object_extent[first] + scene.object_extent[other] - overlap
        iou = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
        np.maximum.at(result, first, iou)
        np.maximum.at(result, other, iou)
    return result


def recall_by(scene: Scene, matches: Matches, values: Floats, edges: Sequence[float]) -> list[Bin]:
    """Return the recall of objects by bins of a value; ``edges`` [B + 1] increase, values beyond them are left out.

    Args:
        scene: the data.
        matches: COCO's, at IoU 0.5 first and 0.75 sixth.
        values: float64 [M].
        edges: of the bins.
    """
    result = []
    found, found75 = matches.of_object[0] >= 0, matches.of_object[5] >= 0
    for low, high in itertools.pairwise(edges):
        inside = scene.counted & (values >= low) & (values < high)
        count = int(inside.sum())
        at = (float(found[inside].mean()), float(found75[inside].mean())) if count else (None, None)
        result.append(Bin(float(low), float(high), count, *at))
    return result


def ap_by_side(scene: Scene, pairs: Pairs, edges: Sequence[float]) -> list[float | None]:
    """Return AP50 of objects by the root of their area, in COCO's way: others are ignored, and so are unmatched detections
    of another size."""
    result: list[float | None] = []
    area, extent = scene.object_area, scene.extent
    for low, high in itertools.pairwise(edges):
        inside = (area >= low**2) & (area < high**2)
        in_range = (extent >= low**2) & (extent < high**2)
        ignored = scene.object_ignored | ~inside
        matches = match(scene, pairs, (0.5,), ignored=ignored, in_range=in_range)
        counts = np.bincount(scene.object_label[~ignored], minlength=len(scene.classes))
        result.append(mean(average_precision(scene, matches, counts)))
    return result


def image_groups(scene: Scene, field: str) -> dict[str, Floats]:
    """Return the images of each value of a field, as weights float64 [N] of 0 and 1, most frequent value first.

    Args:
        scene: the data.
        field: "folder", of the file names, or a key of the annotation file's image entries.

    Raises:
        ValueError: no image has the key; lists those there are.
    """
    values = [_value(entry, field, file) for entry, file in zip(scene.entries, scene.files, strict=True)]
    if all(value is None for value in values):
        keys = sorted({key for entry in scene.entries for key in entry})
        raise ValueError(f"no image has the key {field!r}: there are folder, {', '.join(keys)}")
    names = ["(none)" if value is None else value for value in values]
    unique, index, count = np.unique(names, return_inverse=True, return_counts=True)
    order = np.argsort(-count, kind="stable").tolist()
    return {str(unique[i]): (index == i).astype(np.float64) for i in order}


def _value(entry: dict[str, Any], field: str, file: str) -> str | None:
    if field == "folder" and field not in entry:
        return file.rpartition("/")[0] or "."
    value = entry.get(field)
    return None if value is None else str(value)


def ap_by_group(scene: Scene, matches: Matches, groups: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """Return images, objects and COCO's metrics of each group of images; NaN where undefined."""
    weighted = WeightedAP(scene, matches)
    counted = scene.object_image[scene.counted]
    return {
        name: {"images": float(weights.sum()), "objects": float(weights[counted].sum()), **summary(*weighted(weights))}
        for name, weights in groups.items()
    }
