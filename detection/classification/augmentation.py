"""Random crops, flips and colours of training images, by the seed and the position in the run alone."""

import logging
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import functional as TF  # v2 rounds resized uint8 differently from published recipes

from detection.classification.config import ImageDataConfig
from detection.classification.images import LabelledImages, make_loader
from detection.data.annotations import DataError
from detection.data.image import UnreadableImage
from detection.data.loader import TrainBatchSampler

_LOG = logging.getLogger(__name__)
# eigenvectors (columns) times eigenvalues of the covariance of ImageNet's pixels, RGB 0..1 (fb.resnet.torch,
# datasets/imagenet.lua)
_COLOUR_PCA = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]) * np.array(
    [0.2175, 0.0188, 0.0045]
)
Key = tuple[int, int]


class TrainDataset(Dataset[tuple[Tensor, int]]):
    """Augmented images, uint8 [3, crop, crop], with their labels.

    The key is (image, position in the run). The random augmentation depends on the seed and the position alone.

    Args:
        images: the dataset.
        config: crop, sizes and augmentation.
        seed: of the run.

    Raises:
        ValueError: data.short_side is no range, or starts below data.crop.
    """

    def __init__(self, images: LabelledImages, config: ImageDataConfig, seed: int) -> None:
        self.images, self.config, self.seed = images, config, seed
        if config.short_side is not None and not config.crop <= config.short_side[0] <= config.short_side[1]:
            raise ValueError(
                f"data.short_side must be a range (low, high) with low >= data.crop={config.crop}, got {config.short_side}"
            )

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        i, position = key
        rng, config = np.random.default_rng((self.seed, position)), self.config
        i, pixels = _read_or_substitute(self.images, i)
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        if config.short_side is not None:
            low, high = config.short_side
            image = TF.resize(image, [int(rng.integers(low, high + 1))], antialias=True)
        image = TF.pad(image, [config.pad])
        height, width = image.shape[1:]
        top, left, flip = self._draw_window(rng, height, width)
        image = image[:, top : top + config.crop, left : left + config.crop]
        if flip:
            image = image.flip(2)
        if config.jitter:
            factors = rng.uniform(max(1 - config.jitter, 0), 1 + config.jitter, 3)
            for adjust, factor in zip(
                (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation), factors, strict=True
            ):
                image = adjust(image, float(factor))
        if config.lighting:
            image = pca_lighting(image, rng.normal(0, config.lighting, 3))
        return image.contiguous(), int(self.images.labels[i])

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Return a batch, uint8 [N, 3, crop, crop] and int64 [N]: bit for bit the samples of its keys, stacked."""
        pixels, config = self.images.pixels, self.config
        if pixels is None or config.short_side is not None or config.jitter or config.lighting:
            images, labels = default_collate([self[key] for key in keys])
            return images, labels
        # one copy an image: a small network's step takes little longer than the transforms of its batch, one by one
        indices = np.array([i for i, _ in keys])
        padded = np.pad(pixels[indices], ((0, 0), (config.pad,) * 2, (config.pad,) * 2, (0, 0)))
        batch = np.empty((len(keys), config.crop, config.crop, 3), dtype=np.uint8)
        for image, source, (_, position) in zip(batch, padded, keys, strict=True):
            rng = np.random.default_rng((self.seed, position))
            top, left, flip = self._draw_window(rng, *source.shape[:2])
            window = source[top : top + config.crop, left : left + config.crop]
            image[:] = window[:, ::-1] if flip else window
        return torch.from_numpy(batch).permute(0, 3, 1, 2), torch.from_numpy(self.images.labels[indices])

    def _draw_window(self, rng: Generator, height: int, width: int) -> tuple[int, int, bool]:
        """Draw the crop's top and left in a padded image of a size, and whether it is flipped."""
        crop, pad = self.config.crop, self.config.pad
        margins = [height - crop, width - crop]
        if min(margins) < 0:
            raise ValueError(
                f"{self.images.name}: an image of {height - 2 * pad}x{width - 2 * pad} is smaller than "
                f"data.crop={crop}: set data.short_side, or a smaller crop"
            )
        top, left = (int(rng.integers(margin + 1)) for margin in margins)
        return top, left, bool(rng.random() < self.config.flip)


def pca_lighting(image: Tensor, alphas: NDArray[np.float64]) -> Tensor:
    """Add the sum of the colours' principal components times ``alphas`` [3] to each pixel (AlexNet, section 4.1).

    Args:
        image: uint8 RGB [3, H, W].
        alphas: float64 [3].

    Returns:
        uint8 [3, H, W].
    """
    shift = torch.from_numpy(255 * _COLOUR_PCA @ alphas).float()
    return (image + shift[:, None, None]).round_().clamp_(0, 255).to(torch.uint8)


def _read_or_substitute(images: LabelledImages, i: int) -> tuple[int, NDArray[np.uint8]]:
    """Return index and pixels of image i, or of the next readable one: one corrupt file must not stop a run."""
    for k in range(len(images)):
        substitute = (i + k) % len(images)
        try:
            return substitute, images.read(substitute)
        except (UnreadableImage, OSError) as error:
            _LOG.warning("skipped for training, replaced by the next image: %s", error)
    raise DataError(f"{images.name}: none of its {len(images)} images can be read")


def train_loader(
    dataset: TrainDataset, batch_size: int, *, micro_batches: int, rank: int, world: int, seed: int, start: int
) -> DataLoader[Any]:
    """Return an infinite loader of this process's batches, from step ``start`` on (see :class:`TrainBatchSampler`)."""
    indices = np.arange(len(dataset.images))
    ungrouped = np.zeros(len(indices), dtype=bool)
    sampler = TrainBatchSampler(
        indices, ungrouped, batch_size, micro_batches=micro_batches, rank=rank, world=world, seed=seed, start=start
    )
    return make_loader(dataset, dataset.config.workers, batch_sampler=sampler)
