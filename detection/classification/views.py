"""What a classifier is asked about a picture in evaluation: one crop, ten crops, or the whole picture at several sizes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF  # v2 rounds resized bytes otherwise than published recipes

from detection.classification.config import PicturesConfig
from detection.classification.images import Pictures, middle

Views = Literal["single", "ten", "scales"]
SCALES = (224, 256, 384, 480, 640)  # short sides (section 4.1)


def make_views(picture: NDArray[np.uint8], views: Views, short_side: int | None, crop: int) -> list[Tensor]:
    """Batches of views of one size each, uint8 [n, 3, h, w], of a picture RGB [H, W, 3].

    Args:
        views: "single", the middle; "ten", the middle and the corners, and their mirror images (AlexNet's); "scales", the
            whole picture with its short side at each of 224, 256, 384, 480 and 640, for a network that is applied
            fully-convolutionally (the mean over the map comes before the classifier, and both are linear).
        short_side: of the picture before it is cropped; None leaves its size.
        crop: side of the crops.
    """
    if views == "single":
        return [middle(picture, short_side, crop)[None]]
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    if views == "scales":
        return [TF.resize(image, [side], antialias=True)[None] for side in SCALES]
    if short_side is not None:
        image = TF.resize(image, [short_side], antialias=True)
    return [torch.stack(TF.ten_crop(image, [crop, crop]))]


@torch.no_grad()
def score(net: nn.Module, views: Sequence[Tensor], prepare: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """The mean over all views of the classes' probabilities, [K] on ``device``."""
    found = [net(prepare(batch.to(device))).float().softmax(dim=1) for batch in views]
    return torch.cat(found).mean(dim=0)


class ViewSet(Dataset[tuple[list[Tensor], int]]):
    """Each picture's views and its label; those of a black picture and -1 where it cannot be read."""

    def __init__(self, pictures: Pictures, config: PicturesConfig, views: Views) -> None:
        self.pictures, self.config, self.views = pictures, config, views

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[list[Tensor], int]:
        picture, label = self.pictures.judged(i, self.config.crop)
        return make_views(picture, self.views, self.config.eval_short_side, self.config.crop), label


def view_loader(pictures: Pictures, config: PicturesConfig, views: Views) -> DataLoader[Any]:
    """One picture after the other."""
    return DataLoader(ViewSet(pictures, config, views), batch_size=None, num_workers=config.workers)
