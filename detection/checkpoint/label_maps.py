"""Names of the classes that well-known data sets have, for weights that do not say them."""

from detection.checkpoint.metadata import Classes

_COUNTS = {80: "coco", 20: "voc"}


def class_names(wanted: str | None, count: int) -> Classes:
    """Return COCO's, VOC's or other names, with the ids that they have in results.

    Args:
        wanted: "coco", "voc", names with commas; None goes by ``count``.
        count: how many there are.

    Raises:
        ValueError: another number of names, or nothing to go by.
    """
    wanted = wanted or _COUNTS.get(count)
    if wanted is None:
        raise ValueError(f"these weights have {count} classes and no names for them: give --classes NAME,NAME,…")
    if wanted in ("coco", "voc"):
        names, ids = _coco() if wanted == "coco" else _voc()
    else:
        names = tuple(wanted.split(","))
        ids = tuple(range(1, len(names) + 1))
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"these weights have {count} classes, and {len(set(names))} different names were given")
    return Classes(names, ids)


def _coco() -> tuple[tuple[str, ...], tuple[int, ...]]:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights  # slow to import, and needed here alone

    categories = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    pairs = [(name, i) for i, name in enumerate(categories) if i and name != "N/A"]
    return tuple(name for name, _ in pairs), tuple(i for _, i in pairs)


def _voc() -> tuple[tuple[str, ...], tuple[int, ...]]:
    from torchvision.models.segmentation import FCN_ResNet50_Weights

    names = tuple(sorted(FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:]))
    return names, tuple(range(1, len(names) + 1))
