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
Group = tuple[Tensor, Tensor]  # views of one size, uint8 [m, 3, h, w], and the image of each, int64 [m]
SCALES = (224, 256, 384, 480, 640)  # short sides (section 4.1)
_CROPS: dict[Views, int] = {"single": 1, "ten": 10, "scales": 20}  # an image's views in centre crops, by their pixels


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


def group_views(samples: Sequence[tuple[Sequence[Tensor], int]]) -> tuple[list[Group], Tensor]:
    """Return the views of several images, those of one size together, and the images' labels, int64 [N].

    Args:
        samples: the views (:func:`make_views`) and the label of each image.

    Returns:
        For each size the views, uint8 [m, 3, h, w], with the image each belongs to, int64 [m]; and the labels.
    """
    sizes: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for i, (views, _) in enumerate(samples):
        for view in views:
            sizes.setdefault(view.shape[1:], []).append((i, view))
    groups = [
        (torch.cat([view for _, view in group]), torch.tensor([i for i, view in group for _ in view]))
        for group in sizes.values()
    ]
    return groups, torch.tensor([label for _, label in samples])


@torch.no_grad()
def mean_probabilities(
    net: nn.Module, groups: Sequence[Group], prepare: Callable[[Tensor], Tensor], device: torch.device
) -> Tensor:
    """Return the class probabilities of each image, averaged over its views (:func:`group_views`), float32 [N, K]."""
    owners = torch.cat([owners for _, owners in groups]).to(device)
    probabilities = torch.cat([net(prepare(views.to(device))).float().softmax(dim=1) for views, _ in groups])
    counts = owners.bincount()
    sums = probabilities.new_zeros(len(counts), probabilities.shape[1]).index_add_(0, owners, probabilities)
    return sums / counts[:, None]


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
    images: LabelledImages, config: ImageDataConfig, views: Views, batch_size: int, indices: range
) -> DataLoader[Any]:
    """Return a loader of the views of the images of ``indices``, as :func:`group_views` returns them.

    Args:
        images: the dataset.
        config: sizes and workers.
        views: of each image.
        batch_size: centre crops that fit into memory; of the images with more views, accordingly fewer make a batch.
        indices: of the images, once each.
    """
    return DataLoader(
        ViewDataset(images, config, views),
        batch_size=max(batch_size // _CROPS[views], 1),
        sampler=indices,
        collate_fn=group_views,
        num_workers=config.workers,
        worker_init_fn=init_worker,
    )
