"""Pictures and their boxes, changed together: resizing, mirroring, and any albumentations transform.

Pictures are uint8 [3, H, W] tensors, boxes float32 [n, 4] xyxy in their pixels.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detection.ops.boxes import clip, larger_than


def resized(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """The size at which a picture is seen: its shorter side ``short_side``, or less where the longer would exceed
    ``max_side``; rounded as detectron2's ResizeShortestEdge."""
    scale = short_side / min(height, width)
    new_h, new_w = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(new_h, new_w) > max_side:
        scale = max_side / max(new_h, new_w)
        new_h, new_w = new_h * scale, new_w * scale
    return max(int(new_h + 0.5), 1), max(int(new_w + 0.5), 1)


def resize(image: Tensor, boxes: Tensor, short_side: int, max_side: int) -> tuple[Tensor, Tensor]:
    """Bilinear with antialiasing, as Pillow's."""
    height, width = image.shape[-2:]
    size = resized(height, width, short_side, max_side)
    if size != (height, width):
        image = F.resize(image, list(size), antialias=True)
        boxes = boxes * boxes.new_tensor([size[1] / width, size[0] / height] * 2)
    return image, boxes


def flip(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrored left to right."""
    width = image.shape[-1]
    x1, y1, x2, y2 = boxes.unbind(1)
    return image.flip(-1), torch.stack((width - x2, y1, width - x1, y2), dim=1)


class Augment:
    """An albumentations pipeline on pictures and boxes.

    Args:
        transforms: each {name: {argument: value}}, names of albumentations' classes.

    Raises:
        ValueError: a name that albumentations lacks, or arguments that it refuses.
    """

    def __init__(self, transforms: Sequence[dict[str, dict[str, Any]]]) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else it asks the network at import
        import albumentations as A  # slow to import, and needed only where a configuration names transforms

        built = []
        for entry in transforms:
            for name, arguments in entry.items():
                transform = getattr(A, name, None)
                if not (isinstance(transform, type) and issubclass(transform, A.BasicTransform)):
                    raise ValueError(f"data.augment: albumentations has no transform {name!r}")
                try:
                    built.append(transform(**(arguments or {})))
                except (TypeError, ValueError) as error:
                    raise ValueError(f"data.augment: {name}: {error}") from error
        boxes = A.BboxParams(format="pascal_voc", label_fields=["index"], clip=True, filter_invalid_bboxes=True)
        self._compose = A.Compose(built, bbox_params=boxes)

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The changed picture, and the boxes that are left with their labels. Equal seeds give equal results."""
        # a seed a sample: its own seeding of loading processes repeats itself
        self._compose.set_random_seed(seed % 2**32)
        picture = image.permute(1, 2, 0).contiguous().numpy()
        out = self._compose(image=picture, bboxes=boxes.numpy(), index=np.arange(len(boxes)))
        index = torch.as_tensor(np.asarray(out["index"], dtype=np.int64))
        kept = torch.as_tensor(np.asarray(out["bboxes"], dtype=np.float32)).reshape(-1, 4)
        return torch.from_numpy(np.ascontiguousarray(out["image"])).permute(2, 0, 1), kept, labels[index]


def valid(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes clipped to the picture's true size, without those that nothing is left of."""
    boxes = clip(boxes, size)
    keep = larger_than(boxes, 1e-3)
    return boxes[keep], labels[keep]
