"""Datasets of labelled images (ImageNet folders, CIFAR-10 binary files, synthetic shapes), augmentation and DataLoaders."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF  # v2 rounds resized uint8 differently from published recipes

from detection.classification.config import ImageDataConfig
from detection.data.annotations import DataError
from detection.data.image import SUFFIXES, UnreadableImage, read_image
from detection.data.loader import TrainBatchSampler, init_worker
from detection.data.synthetic import CLASSES, VAL_SEED, draw_crop

_LOG = logging.getLogger(__name__)
_CIFAR_SIDE = 32
_CIFAR_RECORD = 1 + 3 * _CIFAR_SIDE**2  # bytes: a label, then the red, green and blue planes
_CIFAR_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "val": ("test_batch.bin",)}
_CIFAR_FOLDER = "cifar-10-batches-bin"
# eigenvectors (columns) times eigenvalues of the covariance of ImageNet's pixels, RGB 0..1 (fb.resnet.torch,
# datasets/imagenet.lua)
_COLOUR_PCA = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]) * np.array(
    [0.2175, 0.0188, 0.0045]
)
Key = tuple[int, int]


@dataclass(frozen=True)
class LabelledImages:
    """A dataset of labelled images.

    Attributes:
        name: for messages.
        classes: names of labels 0..K-1.
        labels: int64 [n].
        read: returns the i-th image, uint8 RGB [H, W, 3]; raises UnreadableImage or OSError.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    read: Callable[[int], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def read_for_eval(self, i: int, side: int) -> tuple[NDArray[np.uint8], int]:
        """Return the i-th image and its label, or a black square of ``side`` and -1 where it is unreadable."""
        try:
            return self.read(i), int(self.labels[i])
        except (UnreadableImage, OSError) as error:
            _LOG.warning("counted as misclassified: %s", error)
            return np.zeros((side, side, 3), dtype=np.uint8), -1

    def subset(self, indices: NDArray[np.int64]) -> "LabelledImages":
        """Return the subset of the given indices, int64 [m]."""
        return replace(self, labels=self.labels[indices], read=partial(_read_subset, self.read, indices))


def _read_subset(read: Callable[[int], NDArray[np.uint8]], indices: NDArray[np.int64], i: int) -> NDArray[np.uint8]:
    return read(int(indices[i]))


def open_datasets(config: ImageDataConfig) -> tuple[LabelledImages, LabelledImages | None]:
    """Open the training and validation sets; the latter is None where the configuration has none.

    Raises:
        DataError: a folder or file is missing or has another format, or the sets have different classes (lists both).
    """
    train = open_dataset(config, "train", config.train)
    val = None if config.val is None else open_dataset(config, "val", config.val)
    if val is not None and train.classes != val.classes:
        raise DataError(
            f"different classes:\n  {train.name}: {', '.join(train.classes)}\n  {val.name}: {', '.join(val.classes)}"
        )
    return train, val


def open_dataset(config: ImageDataConfig, split: Literal["train", "val"], name: str) -> LabelledImages:
    """Open one split; ``name`` is its value in the configuration.

    Raises:
        DataError: as :func:`open_datasets`.
    """
    return _READERS[config.format](config, split, name)


def _read_folders(config: ImageDataConfig, split: str, name: str) -> LabelledImages:
    folder = Path(config.root).expanduser() / name
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir())) if folder.is_dir() else ()
    if not classes:
        raise DataError(
            f"data.{split}: expected {folder}/CLASS/image.jpg, one folder per class, but there is "
            f"{'no folder in it' if folder.is_dir() else 'no such folder'}; give your data with data.root=… "
            f"data.{split}=…, or use the synthetic dataset with data.format=shapes"
        )
    class_files = [sorted(f for f in (folder / c).rglob("*") if f.suffix.lower() in SUFFIXES) for c in classes]
    empty = [c for c, files in zip(classes, class_files, strict=True) if not files]
    if empty:
        raise DataError(f"{folder}: {len(empty)} classes have no images: {', '.join(empty[:5])}")
    all_files = [file for files in class_files for file in files]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in class_files])
    return LabelledImages(str(folder), classes, labels, partial(_read_file, all_files))


def _read_cifar10(config: ImageDataConfig, split: str, name: str) -> LabelledImages:
    root = Path(config.root).expanduser()
    root = root / _CIFAR_FOLDER if (root / _CIFAR_FOLDER).is_dir() else root
    paths = [root / file for file in _CIFAR_FILES[split]]
    for path in paths:
        size = path.stat().st_size if path.is_file() else 0
        if not size or size % _CIFAR_RECORD:
            raise DataError(
                f"expected CIFAR-10's binary version with {path} of records of {_CIFAR_RECORD} bytes, but it "
                f"{f'has {size} bytes' if size else 'does not exist'}; "
                "unpack cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and give its folder with "
                "data.root=…"
            )
    records = np.concatenate([np.fromfile(path, dtype=np.uint8).reshape(-1, _CIFAR_RECORD) for path in paths])
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise DataError(f"{root}: labels up to {labels.max()}, but CIFAR-10 has 0 to 9")
    images = records[:, 1:].reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1)
    meta = root / "batches.meta.txt"
    names = tuple(meta.read_text(encoding="utf-8").split()) if meta.is_file() else ()
    classes = names if len(names) == 10 else tuple(map(str, range(10)))
    return LabelledImages(f"{root} ({split})", classes, labels, images.__getitem__)


def _generate_shapes(config: ImageDataConfig, split: str, name: str) -> LabelledImages:
    if not name.isdigit() or int(name) < 1:
        raise DataError(f"data.{split} must be a number of images, got {name!r}")
    # another seed, so that the two share no image
    seed = config.seed + (VAL_SEED if split == "val" else 0)
    labels = np.arange(int(name)) % len(CLASSES)
    rngs = (np.random.default_rng((seed, config.crop, i)) for i in range(len(labels)))
    images = np.stack([draw_crop(rng, int(label) + 1, config.crop)[0] for rng, label in zip(rngs, labels, strict=True)])
    return LabelledImages(f"shapes (seed {seed})", CLASSES, labels, images.__getitem__)


# a module-level function, so that DataLoader workers can unpickle it
def _read_file(files: Sequence[Path], i: int) -> NDArray[np.uint8]:
    return read_image(files[i])


_READERS = {"folders": _read_folders, "cifar10": _read_cifar10, "shapes": _generate_shapes}


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
        margins = [side - config.crop for side in image.shape[1:]]
        if min(margins) < 0:
            raise ValueError(
                f"{self.images.name}: an image of {pixels.shape[0]}x{pixels.shape[1]} is smaller than "
                f"data.crop={config.crop}: set data.short_side, or a smaller crop"
            )
        top, left = (int(rng.integers(margin + 1)) for margin in margins)
        image = image[:, top : top + config.crop, left : left + config.crop]
        if rng.random() < config.flip:
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


class EvalDataset(Dataset[tuple[Tensor, int]]):
    """Centre crops, uint8 [3, crop, crop], with their labels; a label is -1 where the image is unreadable."""

    def __init__(self, images: LabelledImages, config: ImageDataConfig) -> None:
        self.images, self.config = images, config

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels, label = self.images.read_for_eval(i, self.config.crop)
        return resize_center_crop(pixels, self.config.eval_short_side, self.config.crop), label


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


def resize_center_crop(pixels: NDArray[np.uint8], short_side: int | None, crop: int) -> Tensor:
    """Resize to ``short_side``, unless it is None, and crop the centre.

    Args:
        pixels: uint8 RGB [H, W, 3].
        short_side: in pixels.
        crop: side of the crop in pixels.

    Returns:
        uint8 [3, crop, crop].
    """
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if short_side is not None:
        image = TF.resize(image, [short_side], antialias=True)
    return TF.center_crop(image, [crop, crop]).contiguous()


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
    return _loader(dataset, dataset.config.workers, batch_sampler=sampler)


def eval_loader(dataset: EvalDataset, batch_size: int, indices: range) -> DataLoader[Any]:
    """Return a loader of the images of ``indices``, once each."""
    return _loader(dataset, dataset.config.workers, batch_size=batch_size, sampler=indices)


def _loader(dataset: Dataset[Any], workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=init_worker,
        **options,
    )
