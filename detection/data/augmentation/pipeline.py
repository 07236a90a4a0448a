"""Transforms of albumentations and of torchvision v2 by name, in the order in which a configuration lists them.

A name that one of the two libraries has is that library's; one that both have (ColorJitter, RandomCrop, …) is refused, and
is written albumentations.NAME or torchvision.NAME, which any name may be.
"""

import difflib
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from detection.data.transforms import clip_boxes

Entries = Sequence[dict[str, dict[str, Any]]]
# they take transforms or functions, or mix a batch
_UNFIT = dict.fromkeys(
    ("Compose", "RandomApply", "RandomChoice", "RandomOrder", "Transform", "Lambda"), "has no values"
)
_UNFIT |= dict.fromkeys(
    ("MixUp", "CutMix"), "mixes a batch of labels without boxes: data.mixup mixes images with boxes"
)
_TRIAL = 64  # side of the image that torchvision's transforms are tried on


class Segment(Protocol):
    """Transforms of one library, which follow each other."""

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the augmented image, and the remaining boxes and labels. Equal seeds give equal results."""


class Augment:
    """A pipeline of transforms for images and boxes.

    Args:
        transforms: {name: {argument: value}} each.

    Raises:
        ValueError: a name that no library or both have, or invalid arguments.
    """

    def __init__(self, transforms: Entries) -> None:
        self.segments: list[Segment] = []
        names = [(name, arguments or {}) for entry in transforms for name, arguments in entry.items()]
        made = [_make(name, arguments) for name, arguments in names]
        begin = 0
        for end in range(1, len(made) + 1):
            if end == len(made) or made[end][0] != made[begin][0]:
                parts = [transform for _, transform in made[begin:end]]
                segment = _Albumentations if made[begin][0] == "albumentations" else _Torchvision
                self.segments.append(segment(parts))
                begin = end

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the augmented image, and the remaining boxes and labels. Equal seeds give equal results.

        Args:
            image: uint8 [C, H, W].
            boxes: float32 [n, 4] xyxy in pixels.
            labels: int64 [n].
            seed: of all that is random.
        """
        for k, segment in enumerate(self.segments):
            image, boxes, labels = segment(image, boxes, labels, (seed + k) % 2**32)
        return image, boxes, labels


def _make(name: str, arguments: dict[str, Any]) -> tuple[str, Any]:
    """Return a transform and its library.

    Raises:
        ValueError: see :class:`Augment`.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no version check over the network at import
    import albumentations as A  # slow to import, and needed only where a configuration names transforms

    libraries = {"albumentations": (A, A.BasicTransform), "torchvision": (v2, v2.Transform)}
    prefix, _, plain = name.rpartition(".")
    if prefix not in ("", *libraries):
        raise ValueError(
            f"data.augment: no library {prefix!r} in {name!r}: write albumentations.{plain}, torchvision.{plain}"
        )
    found = {
        library: kind
        for library, (module, base) in libraries.items()
        if prefix in ("", library) and isinstance(kind := getattr(module, plain, None), type) and issubclass(kind, base)
    }
    if not found:
        known = [n for module, base in libraries.values() for n in dir(module) if _is_transform(module, n, base)]
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.7)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"data.augment: {prefix or 'albumentations and torchvision v2'} has no transform {plain!r}{hint}"
        )
    if len(found) == 2:
        raise ValueError(
            f"data.augment: both libraries have {plain}: write albumentations.{plain} or torchvision.{plain}, whose "
            "arguments differ"
        )
    ((library, kind),) = found.items()
    if library == "torchvision" and plain in _UNFIT:
        raise ValueError(f"data.augment: torchvision.{plain} {_UNFIT[plain]}: it cannot be used here")
    try:
        transform = kind(**_with_modes(arguments) if library == "torchvision" else arguments)
        if library == "torchvision":
            _try(transform)
    except (TypeError, ValueError) as error:
        raise ValueError(f"data.augment: {name}: {error}") from error
    return library, transform


def _is_transform(module: Any, name: str, base: type) -> bool:
    kind = getattr(module, name, None)
    return isinstance(kind, type) and issubclass(kind, base)


def _with_modes(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return torchvision's arguments with the interpolation mode that a text names, such as bilinear."""
    return {k: InterpolationMode(v) if k == "interpolation" and isinstance(v, str) else v for k, v in arguments.items()}


def _try(transform: v2.Transform) -> None:
    """Raise ValueError or TypeError where a transform takes no image with boxes, or gives no uint8 image."""
    image, boxes = torch.zeros(3, _TRIAL, _TRIAL, dtype=torch.uint8), torch.tensor([[8.0, 8, 40, 40]])
    try:
        _Torchvision([transform])(image, boxes, torch.ones(1, dtype=torch.int64), 0)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, _NoImage):
            raise
        # it may want larger images


class _NoImage(ValueError):
    pass


class _Albumentations:
    def __init__(self, transforms: list[Any]) -> None:
        import albumentations as A

        boxes = A.BboxParams(format="pascal_voc", label_fields=["index"], clip=True, filter_invalid_bboxes=True)
        self._compose = A.Compose(transforms, bbox_params=boxes)

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        # a seed per sample: albumentations' own seeding repeats itself over DataLoader workers
        self._compose.set_random_seed(seed)
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        out = self._compose(image=pixels, bboxes=boxes.numpy(), index=np.arange(len(boxes)))
        index = torch.as_tensor(np.asarray(out["index"], dtype=np.int64))
        remaining = torch.as_tensor(np.asarray(out["bboxes"], dtype=np.float32)).reshape(-1, 4)
        return torch.from_numpy(np.ascontiguousarray(out["image"])).permute(2, 0, 1), remaining, labels[index]


class _Torchvision:
    def __init__(self, transforms: list[v2.Transform]) -> None:
        self._compose = v2.Compose(transforms)

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        size = (image.shape[-2], image.shape[-1])
        sample = {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),  # type: ignore[call-overload]
            "labels": labels,
        }
        # torchvision draws from torch's generator of the CPU, which this leaves as it was
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            out = self._compose(sample)
        finally:
            torch.set_rng_state(state)
        image = out["image"] if isinstance(out, dict) else out
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 3:
            kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise _NoImage(f"gives {kind} in place of a uint8 image [C, H, W]")
        boxes, labels = torch.Tensor(out["boxes"].as_subclass(Tensor)), out["labels"]
        image = image.as_subclass(Tensor)
        boxes, labels = clip_boxes(boxes, labels, (image.shape[-2], image.shape[-1]))
        return image, boxes, labels
