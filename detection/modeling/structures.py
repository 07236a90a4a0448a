"""What the parts of the model pass to each other: feature maps, an image's ground truth, its detections; and the check of
the input."""

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor

from detection.ops.device import can_read

_OVERSHOOT = 0.25  # of interpolation and noise beyond 0..1
_BYTES = 16.0  # larger values are no normalised ones
Maps = Tensor | Sequence[Tensor]  # one map [N, C, H, W], or the levels of a pyramid, finest first


def as_maps(features: Maps) -> Sequence[Tensor]:
    """Return a sequence of maps; a single one is not copied."""
    return (features,) if isinstance(features, Tensor) else features


class Target(TypedDict):
    """Ground truth of one image: boxes [n, 4] float32 xyxy in its pixels, labels [n] int64 in 1..K."""

    boxes: Tensor
    labels: Tensor


class Detections(TypedDict):
    """Detections of one image, best first: boxes [n, 4] xyxy in its pixels, labels [n] int64 in 1..K, scores [n]."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def check_images(images: Sequence[Tensor], channels: int = 3) -> None:
    """Raise TypeError or ValueError unless every image is a float tensor [channels, H, W]."""
    if len(images) == 0:
        raise ValueError("no images: wanted at least one float tensor [3, H, W]")
    for i, image in enumerate(images):
        if not isinstance(image, Tensor) or not image.is_floating_point():
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(
                f"image {i}: wanted a float tensor [3, H, W] with RGB in 0..1, got {kind}; divide bytes by 255"
            )
        if image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
            raise ValueError(f"image {i}: wanted [{channels}, H, W], got {list(image.shape)}")


def check_range(images: Sequence[Tensor]) -> str:
    """Return what is doubtful about the values of images, or "". Reading them on a GPU is a host-device synchronisation.

    Raises:
        ValueError: values far beyond 0..1, such as 0..255; names the image and the range seen.
    """
    for i, image in enumerate(images):
        low, high = (float(value) for value in image.detach().aminmax())
        if high > _BYTES:
            raise ValueError(
                f"image {i} has values {low:.4g}..{high:.4g}: wanted RGB in 0..1; divide bytes by 255. The detector "
                "normalises images itself"
            )
        if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
            return (
                f"image {i} has values {low:.4g}..{high:.4g}, and RGB in 0..1 is wanted: is it normalised already? The "
                "detector does that itself"
            )
    return ""


def check_targets(targets: Sequence[Target] | None, images: Sequence[Tensor], num_classes: int) -> Sequence[Target]:
    """Return the targets, or raise TypeError or ValueError that names the first wrong image. Values are checked where they
    can be read without a host-device synchronisation."""
    if targets is None:
        raise ValueError("training wants targets: a list of {'boxes': [n, 4], 'labels': [n]}, one an image")
    if len(targets) != len(images):
        raise ValueError(f"{len(images)} images but {len(targets)} targets")
    for i, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise ValueError(f"target {i}: wanted float boxes [n, 4], got {boxes.dtype} {list(boxes.shape)}")
        if labels.shape != boxes.shape[:1] or labels.is_floating_point():
            raise ValueError(f"target {i}: wanted {len(boxes)} integer labels, got {labels.dtype} {list(labels.shape)}")
        if len(boxes) and can_read(boxes):
            bad = ~((boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1))
            if bad.any():
                raise ValueError(f"target {i}: boxes want x1 < x2 and y1 < y2, got {boxes[bad][0].tolist()}")
            if labels.min() < 1 or labels.max() > num_classes:
                raise ValueError(
                    f"target {i}: labels want 1..{num_classes} (0 is the background), got "
                    f"{int(labels.min())}..{int(labels.max())}"
                )
    return targets
