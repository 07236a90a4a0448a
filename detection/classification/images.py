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
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import functional as TF  # v2 rounds resized uint8 differently from published recipes

from detection.classification.config import ImageDataConfig
from detection.data.annotations import DataError
from detection.data.image import SUFFIXES, UnreadableImage, read_image
from detection.data.loader import init_worker
from detection.data.synthetic import CLASSES, VAL_SEED, draw_crop

_LOG = logging.getLogger(__name__)
_CIFAR_SIDE = 32
_CIFAR_RECORD = 1 + 3 * _CIFAR_SIDE**2  # bytes: a label, then the red, green and blue planes
_CIFAR_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "val": ("test_batch.bin",)}
_CIFAR_FOLDER = "cifar-10-batches-bin"


@dataclass(frozen=True)
class LabelledImages:
    """A dataset of labelled images.

    Attributes:
        name: for messages.
        classes: names of labels 0..K-1.
        labels: int64 [n].
        read: returns the i-th image, uint8 RGB [H, W, 3]; raises UnreadableImage or OSError.
        pixels: all images at once, uint8 RGB [n, H, W, 3], where they are held in memory; else None.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    read: Callable[[int], NDArray[np.uint8]]
    pixels: NDArray[np.uint8] | None = None

    @classmethod
    def in_memory(
        cls, name: str, classes: tuple[str, ...], labels: NDArray[np.int64], pixels: NDArray[np.uint8]
    ) -> "LabelledImages":
        """Return the dataset of images that are held in memory, uint8 RGB [n, H, W, 3]."""
        return cls(name, classes, labels, pixels.__getitem__, pixels)

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
        if self.pixels is not None:
            return self.in_memory(self.name, self.classes, self.labels[indices], self.pixels[indices])
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
    planes = records[:, 1:].reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    meta = root / "batches.meta.txt"
    names = tuple(meta.read_text(encoding="utf-8").split()) if meta.is_file() else ()
    classes = names if len(names) == 10 else tuple(map(str, range(10)))
    return LabelledImages.in_memory(f"{root} ({split})", classes, labels, images)


def _generate_shapes(config: ImageDataConfig, split: str, name: str) -> LabelledImages:
    if not name.isdigit() or int(name) < 1:
        raise DataError(f"data.{split} must be a number of images, got {name!r}")
    # another seed, so that the two share no image
    seed = config.seed + (VAL_SEED if split == "val" else 0)
    labels = np.arange(int(name)) % len(CLASSES)
    rngs = (np.random.default_rng((seed, config.crop, i)) for i in range(len(labels)))
    images = np.stack([draw_crop(rng, int(label) + 1, config.crop)[0] for rng, label in zip(rngs, labels, strict=True)])
    return LabelledImages.in_memory(f"shapes (seed {seed})", CLASSES, labels, images)


# a module-level function, so that DataLoader workers can unpickle it
def _read_file(files: Sequence[Path], i: int) -> NDArray[np.uint8]:
    return read_image(files[i])


_READERS = {"folders": _read_folders, "cifar10": _read_cifar10, "shapes": _generate_shapes}


class EvalDataset(Dataset[tuple[Tensor, int]]):
    """Centre crops, uint8 [3, crop, crop], with their labels; a label is -1 where the image is unreadable."""

    def __init__(self, images: LabelledImages, config: ImageDataConfig) -> None:
        self.images, self.config = images, config

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels, label = self.images.read_for_eval(i, self.config.crop)
        return resize_center_crop(pixels, self.config.eval_short_side, self.config.crop), label

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return a batch, uint8 [N, 3, crop, crop] and int64 [N]."""
        pixels, config = self.images.pixels, self.config
        whole = pixels is not None and config.eval_short_side is None and pixels.shape[1:3] == (config.crop,) * 2
        if not whole:
            images, labels = default_collate([self[i] for i in indices])
            return images, labels
        assert pixels is not None
        return torch.from_numpy(pixels[indices]).permute(0, 3, 1, 2), torch.from_numpy(self.images.labels[indices])


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


def eval_loader(dataset: EvalDataset, batch_size: int, indices: range) -> DataLoader[Any]:
    """Return a loader of the images of ``indices``, once each."""
    return make_loader(dataset, dataset.config.workers, batch_size=batch_size, sampler=indices)


def make_loader(dataset: Dataset[Any], workers: int, **options: Any) -> DataLoader[Any]:
    """Return a loader of a dataset whose ``__getitems__`` returns whole batches."""
    return DataLoader(
        dataset,
        collate_fn=_as_is,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=init_worker,
        **options,
    )


def _as_is(batch: Any) -> Any:
    return batch
