"""Recipes of pretrained weights: input normalisation and architecture variants that key names do not reveal."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from backbone.blocks import StrideIn

StemPool = Literal["pad1", "ceil"]


@dataclass(frozen=True)
class Recipe:
    """Input normalisation and architecture that a set of weights was trained with.

    Attributes:
        name: of the recipe.
        channels: order of the input channels.
        scale: 1.0 for values 0..1, 255.0 for 0..255.
        mean, std: per channel in that order, after scaling.
        stride_in: convolution of a bottleneck that has the stride.
        stem_pool: padding of the stem's 3x3 pooling ("ceil" is Caffe's).
    """

    name: str
    channels: Literal["RGB", "BGR"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride_in: StrideIn
    stem_pool: StemPool

    def for_channels(self, count: int) -> "Recipe":
        """Return the recipe for images of another number of channels than three, which come in the order of their file: one
        has the mean of the three means and deviations, more take those of R, G, B in turn, as conv1's weights do
        (:func:`backbone.weights.adapt_input`)."""
        if count == len(self.mean):
            return self
        mean, std = (values if self.channels == "RGB" else values[::-1] for values in (self.mean, self.std))
        if count == 1:
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        else:
            mean, std = (tuple(values[k % len(values)] for k in range(count)) for values in (mean, std))
        return dataclasses.replace(self, channels="RGB", mean=mean, std=std)

    def normalise(self, image: Tensor, affine: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Normalise float RGB 0..1 [..., C, H, W], C its channels, as the weights expect; returns a new tensor.

        Args:
            image: the images.
            affine: result of :meth:`affine` on the image's device; None computes it.
        """
        scale, shift = affine or self.affine(image.device)
        if self.channels == "BGR":
            image = image.flip(-3)
        return torch.addcmul(shift.to(image.dtype), image, scale.to(image.dtype))

    def affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return (scale, shift), float32 [C, 1, 1] each: the normalisation is ``image * scale + shift``."""
        mean = torch.tensor(self.mean, dtype=torch.float64)
        std = torch.tensor(self.std, dtype=torch.float64)
        scale, shift = self.scale / std, -mean / std
        return scale.float().to(device)[:, None, None], shift.float().to(device)[:, None, None]


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("torchvision", "RGB", 1.0, _IMAGENET_MEAN, _IMAGENET_STD, "3x3", "pad1"),
        # original weights of He et al., with their published means
        Recipe("msra", "BGR", 255.0, (103.06, 115.90, 123.15), (1.0, 1.0, 1.0), "1x1", "ceil"),
        # detectron2's copies of these and its model zoo (detectron2/config/defaults.py, MODEL.PIXEL_MEAN)
        Recipe("detectron2", "BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "1x1", "pad1"),
        # the paper's architecture with torchvision's normalisation, as some pruned and exported ResNet-50
        Recipe("v1_rgb", "RGB", 1.0, _IMAGENET_MEAN, _IMAGENET_STD, "1x1", "ceil"),
    )
}
