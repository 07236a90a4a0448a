"""Pictures with a class each: ImageNet's folders, CIFAR-10's binary files, drawn shapes; and what a network sees of them."""

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
from torchvision.transforms import functional as TF  # v2 rounds resized bytes otherwise than published recipes

from detection.classification.config import PicturesConfig
from detection.data.annotations import DataError
from detection.data.image import SUFFIXES, UnreadableImage, read_image
from detection.data.loader import TrainBatchSampler, init_worker
from detection.data.synthetic import CLASSES, draw_crop

_LOG = logging.getLogger(__name__)
_CIFAR_SIDE = 32
_CIFAR_RECORD = 1 + 3 * _CIFAR_SIDE**2  # a label, then the red, green and blue planes
_CIFAR_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "val": ("test_batch.bin",)}
_CIFAR_FOLDER = "cifar-10-batches-bin"
# principal axes (columns) of the colours of ImageNet's pixels, RGB 0..1, times their sizes, as Torch's training of ResNets
# gives them (fb.resnet.torch, datasets/imagenet.lua)
_COLOUR_AXES = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * np.array([0.2175, 0.0188, 0.0045])
Key = tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """A set.

    Attributes:
        name: for messages.
        classes: names of labels 0..K-1.
        labels: int64 [n].
        read: the i-th picture, RGB uint8 [H, W, 3]; raises UnreadableImage or OSError where it cannot.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    read: Callable[[int], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def judged(self, i: int, side: int) -> tuple[NDArray[np.uint8], int]:
        """The i-th picture and its label; where it cannot be read a black square and -1, which no answer equals."""
        try:
            return self.read(i), int(self.labels[i])
        except (UnreadableImage, OSError) as error:
            _LOG.warning("counts as wrong: %s", error)
            return np.zeros((side, side, 3), dtype=np.uint8), -1

    def some(self, chosen: NDArray[np.int64]) -> "Pictures":
        """A part of the set."""
        return replace(self, labels=self.labels[chosen], read=partial(_read_chosen, self.read, chosen))


def _read_chosen(read: Callable[[int], NDArray[np.uint8]], chosen: NDArray[np.int64], i: int) -> NDArray[np.uint8]:
    return read(int(chosen[i]))


def open_pictures(config: PicturesConfig) -> tuple[Pictures, Pictures | None]:
    """The sets to train and to evaluate on; the latter may be absent.

    Raises:
        DataError: a folder or file is not there, or is not of its form; the sets have different classes (lists both).
    """
    train = open_set(config, "train", config.train)
    val = None if config.val is None else open_set(config, "val", config.val)
    if val is not None and train.classes != val.classes:
        raise DataError(
            f"different classes:\n  {train.name}: {', '.join(train.classes)}\n  {val.name}: {', '.join(val.classes)}"
        )
    return train, val


def open_set(config: PicturesConfig, which: Literal["train", "val"], name: str) -> Pictures:
    """One of the sets; ``name`` is its entry in the configuration.

    Raises:
        DataError: as :func:`open_pictures`.
    """
    return _READERS[config.format](config, which, name)


def _folders(config: PicturesConfig, which: str, name: str) -> Pictures:
    folder = Path(config.root).expanduser() / name
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir())) if folder.is_dir() else ()
    if not classes:
        raise DataError(
            f"data.{which}: wanted {folder}/CLASS/picture.jpg, a folder a class, and there is "
            f"{'no folder in it' if folder.is_dir() else 'no such folder'}; name your own with data.root=… data.{which}=…, "
            "or draw pictures with data.format=shapes"
        )
    found = [sorted(f for f in (folder / c).rglob("*") if f.suffix.lower() in SUFFIXES) for c in classes]
    empty = [c for c, files in zip(classes, found, strict=True) if not files]
    if empty:
        raise DataError(f"{folder}: {len(empty)} classes have no picture: {', '.join(empty[:5])}")
    files = [file for members in found for file in members]
    labels = np.repeat(np.arange(len(classes)), [len(members) for members in found])
    return Pictures(str(folder), classes, labels, partial(_read_file, files))


def _cifar10(config: PicturesConfig, which: str, name: str) -> Pictures:
    root = Path(config.root).expanduser()
    root = root / _CIFAR_FOLDER if (root / _CIFAR_FOLDER).is_dir() else root
    paths = [root / file for file in _CIFAR_FILES[which]]
    for path in paths:
        size = path.stat().st_size if path.is_file() else 0
        if not size or size % _CIFAR_RECORD:
            raise DataError(
                f"wanted CIFAR-10's binary version with {path} of records of {_CIFAR_RECORD} bytes, and it "
                f"{f'has {size} bytes' if size else 'is not there'}; "
                "unpack cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and name its folder with "
                "data.root=…"
            )
    records = np.concatenate([np.fromfile(path, dtype=np.uint8).reshape(-1, _CIFAR_RECORD) for path in paths])
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise DataError(f"{root}: labels up to {labels.max()}, and CIFAR-10 has 0 to 9")
    images = records[:, 1:].reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1)
    meta = root / "batches.meta.txt"
    names = tuple(meta.read_text().split()) if meta.is_file() else ()
    classes = names if len(names) == 10 else tuple(map(str, range(10)))
    return Pictures(f"{root} ({which})", classes, labels, images.__getitem__)


def _shapes(config: PicturesConfig, which: str, name: str) -> Pictures:
    if not name.isdigit() or int(name) < 1:
        raise DataError(f"data.{which} must be a number of pictures to draw, got {name!r}")
    # another seed, so that no picture stands in both
    seed = config.seed + (1_000_003 if which == "val" else 0)
    labels = np.arange(int(name)) % len(CLASSES)
    rngs = (np.random.default_rng((seed, config.crop, i)) for i in range(len(labels)))
    drawn = np.stack([draw_crop(rng, int(label) + 1, config.crop)[0] for rng, label in zip(rngs, labels, strict=True)])
    return Pictures(f"shapes (seed {seed})", CLASSES, labels, drawn.__getitem__)


# functions with names, for processes that load pictures may have to receive them
def _read_file(files: Sequence[Path], i: int) -> NDArray[np.uint8]:
    return read_image(files[i])


_READERS = {"folders": _folders, "cifar10": _cifar10, "shapes": _shapes}


class TrainPictures(Dataset[tuple[Tensor, int]]):
    """Augmented pictures, uint8 [3, crop, crop], with their labels. The key is (picture, position): what happens to a
    picture depends on the seed and on its position in the run alone."""

    def __init__(self, pictures: Pictures, config: PicturesConfig, seed: int) -> None:
        self.pictures, self.config, self.seed = pictures, config, seed
        if config.short_side is not None and not config.crop <= config.short_side[0] <= config.short_side[1]:
            raise ValueError(
                f"data.short_side must be a range (low, high) that begins at data.crop={config.crop} or above, got "
                f"{config.short_side}"
            )

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        i, position = key
        rng, config = np.random.default_rng((self.seed, position)), self.config
        i, picture = _read(self.pictures, i)
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        if config.short_side is not None:
            low, high = config.short_side
            image = TF.resize(image, [int(rng.integers(low, high + 1))], antialias=True)
        image = TF.pad(image, [config.pad])
        free = [side - config.crop for side in image.shape[1:]]
        if min(free) < 0:
            raise ValueError(
                f"{self.pictures.name}: a picture of {picture.shape[0]}x{picture.shape[1]} is smaller than "
                f"data.crop={config.crop}: set data.short_side, or a smaller crop"
            )
        top, left = (int(rng.integers(f + 1)) for f in free)
        image = image[:, top : top + config.crop, left : left + config.crop]
        if rng.random() < config.flip:
            image = image.flip(2)
        if config.jitter:
            change = rng.uniform(max(1 - config.jitter, 0), 1 + config.jitter, 3)
            for adjust, factor in zip(
                (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation), change, strict=True
            ):
                image = adjust(image, float(factor))
        if config.lighting:
            image = shift_colours(image, rng.normal(0, config.lighting, 3))
        return image.contiguous(), int(self.pictures.labels[i])


class EvalPictures(Dataset[tuple[Tensor, int]]):
    """The middle of each picture, uint8 [3, crop, crop], with its label; -1 where the picture cannot be read."""

    def __init__(self, pictures: Pictures, config: PicturesConfig) -> None:
        self.pictures, self.config = pictures, config

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture, label = self.pictures.judged(i, self.config.crop)
        return middle(picture, self.config.eval_short_side, self.config.crop), label


def shift_colours(image: Tensor, amounts: NDArray[np.float64]) -> Tensor:
    """uint8 [3, H, W] with every pixel moved by the sum of the colour axes times ``amounts`` [3] (AlexNet, section 4.1)."""
    shift = torch.from_numpy(255 * _COLOUR_AXES @ amounts).float()
    return (image + shift[:, None, None]).round_().clamp_(0, 255).to(torch.uint8)


def middle(picture: NDArray[np.uint8], short_side: int | None, crop: int) -> Tensor:
    """RGB [H, W, 3] to uint8 [3, crop, crop]: resized to the short side where one is given, the square in its middle."""
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    if short_side is not None:
        image = TF.resize(image, [short_side], antialias=True)
    return TF.center_crop(image, [crop, crop]).contiguous()


def _read(pictures: Pictures, i: int) -> tuple[int, NDArray[np.uint8]]:
    """Picture i, or where that is damaged, the next one that is not: one bad file must not end a run."""
    for k in range(len(pictures)):
        substitute = (i + k) % len(pictures)
        try:
            return substitute, pictures.read(substitute)
        except (UnreadableImage, OSError) as error:
            _LOG.warning("left out of training, the next picture takes its place: %s", error)
    raise DataError(f"{pictures.name}: none of its {len(pictures)} pictures can be read")


def train_loader(
    dataset: TrainPictures, batch_size: int, *, parts: int, rank: int, world: int, seed: int, start: int
) -> DataLoader[Any]:
    """Endless batches of this process's share of each step, from step ``start`` on."""
    indices = np.arange(len(dataset.pictures))
    ungrouped = np.zeros(len(indices), dtype=bool)
    sampler = TrainBatchSampler(
        indices, ungrouped, batch_size, micro_batches=parts, rank=rank, world=world, seed=seed, start=start
    )
    return _loader(dataset, dataset.config.workers, batch_sampler=sampler)


def eval_loader(dataset: EvalPictures, batch_size: int, indices: range) -> DataLoader[Any]:
    """Batches of these pictures, once each."""
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
