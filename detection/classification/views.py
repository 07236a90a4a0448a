"""Test-time views of an image for classification: one crop, ten crops, or the whole image at several sizes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF  # v2 rounds resized uint8 differently from published recipes

from detection.classification.config import ImageDataConfig
from detection.classification.images import LabelledImages, resize_center_crop
from detection.data.loader import init_worker

Views = Literal["single", "ten", "scales"]
SCALES = (224, 256, 384, 480, 640)  # short sides (section 4.1)


def make_views(pixels: NDArray[np.uint8], views: Views, short_side: int | None, crop: int) -> list[Tensor]:
    """Return the views of an image as batches of equal size, uint8 [n, 3, h, w] each.

    Args:
        pixels: uint8 RGB [H, W, 3].
        views: "single", the centre crop; "ten", the centre and corner crops and their horizontal flips (AlexNet's);
            "scales", the whole image with its short side resized to each of 224, 256, 384, 480 and 640, for a network
            applied fully-convolutionally (average pooling comes before the classifier, and both are linear).
        short_side: of the image before cropping; None does not resize.
        crop: side of the crops in pixels.
    """
    if views == "single":
        return [resize_center_crop(pixels, short_side, crop)[None]]
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if views == "scales":
        return [TF.resize(image, [side], antialias=True)[None] for side in SCALES]
    if short_side is not None:
        image = TF.resize(image, [short_side], antialias=True)
    return [torch.stack(TF.ten_crop(image, [crop, crop]))]


@torch.no_grad()
def mean_probabilities(
    net: nn.Module, views: Sequence[Tensor], prepare: Callable[[Tensor], Tensor], device: torch.device
) -> Tensor:
    """Return the class probabilities averaged over all views, float32 [K] on ``device``."""
    probabilities = [net(prepare(batch.to(device))).float().softmax(dim=1) for batch in views]
    return torch.cat(probabilities).mean(dim=0)


class ViewDataset(Dataset[tuple[list[Tensor], int]]):
    """The views and label of each image; those of a black image and -1 where the image is unreadable."""

    def __init__(self, images: LabelledImages, config: ImageDataConfig, views: Views) -> None:
        self.images, self.config, self.views = images, config, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[list[Tensor], int]:
        pixels, label = self.images.read_for_eval(i, self.config.crop)
        return make_views(pixels, self.views, self.config.eval_short_side, self.config.crop), label


def view_loader(
    images: LabelledImages, config: ImageDataConfig, views: Views, indices: range | None = None
) -> DataLoader[Any]:
    """Return a loader of the views of one image at a time: those of ``indices``, or all."""
    return DataLoader(
        ViewDataset(images, config, views),
        batch_size=None,
        sampler=range(len(images)) if indices is None else indices,  # type: ignore[arg-type]
        num_workers=config.workers,
        worker_init_fn=init_worker,
    )
