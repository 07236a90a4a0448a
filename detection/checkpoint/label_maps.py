"""Class names of COCO and VOC, for weights without label maps."""

from detection.checkpoint.metadata import Classes

_COUNTS = {80: "coco", 90: "coco", 20: "voc"}  # 90: torchvision's, with a class for each id that COCO does not use


def class_names(spec: str | None, count: int) -> Classes:
    """Return COCO's, VOC's or other class names, with their category ids in results.

    Args:
        spec: "coco", "voc", or comma-separated names; None selects COCO or VOC by ``count``.
        count: number of classes.

    Raises:
        ValueError: the number of names is not ``count``, or no names are known for it.
    """
    spec = spec or _COUNTS.get(count)
    if spec is None:
        raise ValueError(f"these weights have {count} classes without names: set --classes NAME,NAME,…")
    if spec in ("coco", "voc"):
        names, ids = _coco(unused=count == 90) if spec == "coco" else _voc()
    else:
        names = tuple(spec.split(","))
        ids = tuple(range(1, len(names) + 1))
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"these weights have {count} classes, but {len(set(names))} different names were given")
    return Classes(names, ids)


def _coco(unused: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights  # slow to import, and only needed here

    categories = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    named = [(f"N/A {i}" if name == "N/A" else name, i) for i, name in enumerate(categories) if i]
    pairs = [(name, i) for name, i in named if unused or not name.startswith("N/A")]
    return tuple(name for name, _ in pairs), tuple(i for _, i in pairs)


def _voc() -> tuple[tuple[str, ...], tuple[int, ...]]:
    from torchvision.models.segmentation import FCN_ResNet50_Weights

    names = tuple(sorted(FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:]))
    return names, tuple(range(1, len(names) + 1))
