"""Datasets, batch sampler and DataLoaders of the detector."""

import itertools
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detection.config import DataConfig
from detection.data import transforms
from detection.data.annotations import Annotations, DataError, train_objects
from detection.data.augmentation.jitter import large_scale_jitter
from detection.data.augmentation.mixing import ImageBoxes, mixup, mosaic
from detection.data.augmentation.pipeline import Augment
from detection.data.image import UnreadableImage
from detection.data.repeat_factors import epoch_rows, repeat_factors

_LOG = logging.getLogger(__name__)
_GRACE_SECONDS = 30  # from SIGTERM to a worker's exit
_MIXING = 1  # seeds what draws the images of a mosaic, beside the position's own generator
ImageReader = Callable[[str], NDArray[np.uint8]]  # file -> RGB [H, W, 3], or of another number of channels


@dataclass(frozen=True)
class Batch:
    """A batch of images and targets.

    Attributes:
        images: uint8 [C, H, W] each, resized.
        targets: {"boxes", "labels"} each, in pixels of the resized image.
        index: positions of the images in their records.
        sizes: original (height, width) each, to which detections are rescaled.
        readable: False for a file that could not be decoded; its image is black and has no detections.
        scaled: for each image itself at the scales of multi-scale testing, the smallest first; empty where there are none.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    index: list[int]
    sizes: list[tuple[int, int]]
    readable: list[bool]
    scaled: list[list[Tensor]] = field(default_factory=list)

    def pin_memory(self) -> "Batch":
        """Return a copy in pinned memory; the DataLoader calls this."""
        images = [image.pin_memory() for image in self.images]
        return Batch(
            images,
            [{k: v.pin_memory() for k, v in t.items()} for t in self.targets],
            self.index,
            self.sizes,
            self.readable,
            [[image.pin_memory() for image in views] for views in self.scaled],
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of the batch with its tensors on ``device``."""
    images = [image.to(device, non_blocking=True) for image in batch.images]
    targets = [{k: v.to(device, non_blocking=True) for k, v in t.items()} for t in batch.targets]
    scaled = [[image.to(device, non_blocking=True) for image in views] for views in batch.scaled]
    return Batch(images, targets, batch.index, batch.sizes, batch.readable, scaled)


def float_images(batch: Batch) -> list[Tensor]:
    """Return the batch's images as float32 RGB 0..1."""
    return as_float(batch.images)


def as_float(images: Sequence[Tensor]) -> list[Tensor]:
    """Return uint8 images as float32 0..1."""
    return [image.float().div_(255) for image in images]


Sample = tuple[Any, ...]  # image, targets, index, size, readable, and with multi-scale testing the image at the scales


def collate(samples: list[Sample]) -> Batch:
    """Collate samples into a batch, without padding."""
    images, targets, index, sizes, readable, *scaled = zip(*samples, strict=True)
    return Batch(list(images), list(targets), list(index), list(sizes), list(readable), *map(list, scaled))


class TrainSet(Dataset[Any]):
    """Training samples with augmentation.

    The key is (image, position in the run). The random augmentation depends on the seed and the position alone, not on
    the number of workers or on earlier samples.

    Args:
        records: the annotations.
        read: reads an image file.
        config: sizes, flip, augmentation, which objects are used.
        seed: of the run.
    """

    def __init__(self, records: Annotations, read: ImageReader, config: DataConfig, seed: int) -> None:
        self.records, self.read, self.config, self.seed = records, read, config, seed
        self.objects = train_objects(records, config.keep_difficult)
        self.augment = Augment(config.augment) if config.augment else None
        self._partners = self.usable() if config.mosaic or config.mixup else None

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        i, position = key
        rng = np.random.default_rng((self.seed, position))
        i, size, sample = self._augmented(i, rng)
        mixing = self._mixing(position)
        if mixing is not None and mixing.random() < self.config.mosaic:
            side = self.config.jitter_side if self.config.large_scale_jitter else self.config.short_side[-1]
            sample = mosaic([sample, *(self._other(mixing) for _ in range(3))], side, mixing)
        image, boxes, labels = self._resized(*sample, rng)
        if mixing is not None and mixing.random() < self.config.mixup:
            image, boxes, labels = mixup((image, boxes, labels), self._other(mixing), mixing)
        return image.contiguous(), {"boxes": boxes, "labels": labels}, i, size, True

    def _mixing(self, position: int) -> np.random.Generator | None:
        """Return what draws the images that join this one, apart from what draws all else; None where none do."""
        mixes = self.config.mosaic or self.config.mixup
        return np.random.default_rng((self.seed, position, _MIXING)) if mixes else None

    def _other(self, rng: np.random.Generator) -> ImageBoxes:
        assert self._partners is not None
        return self._augmented(int(rng.choice(self._partners)), rng)[2]

    def _augmented(self, i: int, rng: np.random.Generator) -> tuple[int, tuple[int, int], ImageBoxes]:
        """Return the index of the image that was read, its size as a file, and image, boxes and labels after
        ``data.augment``."""
        i, pixels = self._read(i)
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        objects = self.records.objects(i)
        keep = self.objects.keep[objects]
        # also where the annotated size is not the image's
        boxes, labels = transforms.clip_boxes(
            torch.from_numpy(self.objects.boxes[objects][keep]),
            torch.from_numpy(self.records.labels[objects][keep]),
            pixels.shape[:2],
        )
        if self.augment is not None:
            image, boxes, labels = self.augment(image, boxes, labels, int(rng.integers(2**32)))
        return i, pixels.shape[:2], (image, boxes, labels)

    def _resized(self, image: Tensor, boxes: Tensor, labels: Tensor, rng: np.random.Generator) -> ImageBoxes:
        if self.config.large_scale_jitter:
            scales, side = self.config.large_scale_jitter, self.config.jitter_side
            image, boxes, labels = large_scale_jitter(image, boxes, labels, scales, side, rng)
        else:
            short_side = int(rng.choice(self.config.short_side))
            image, boxes = transforms.resize(image, boxes, short_side, self.config.max_side)
        if rng.random() < self.config.flip:
            image, boxes = transforms.flip(image, boxes)
        boxes, labels = transforms.clip_boxes(boxes, labels, (image.shape[-2], image.shape[-1]))
        return image, boxes, labels

    def _read(self, i: int) -> tuple[int, NDArray[np.uint8]]:
        """Decode image i, or the next readable training image where it is corrupt: one bad file must not stop a run.

        Returns:
            The index of the image that was read, and its pixels, uint8 RGB [H, W, 3].

        Raises:
            DataError: no image can be read.
        """
        for substitute in itertools.chain([i], self._following(i)):
            try:
                return substitute, self.read(self.records.files[substitute])
            except (UnreadableImage, OSError) as error:
                _LOG.warning("skipped for training, replaced by the next one: %s", error)
                last = error
        raise DataError(f"{self.records.name}: none of its {len(self.records)} images can be read, the last: {last}")

    def _following(self, i: int) -> Iterator[int]:
        """Yield the other training images, from the one after i on; computed where an image cannot be read alone."""
        usable = self.usable()
        yield from np.roll(usable, -int(np.searchsorted(usable, i, side="right"))).tolist()

    def usable(self) -> NDArray[np.int64]:
        """Return the indices of the training images, int64 [n]: all, or those with at least one object."""
        if self.config.keep_empty:
            return np.arange(len(self.records))
        return np.unique(self.records.image_of()[self.objects.keep])

    def repeat_factors(self) -> NDArray[np.float64] | None:
        """Return how often each image of :meth:`usable` comes an epoch, float64 [n]; None for once each."""
        if not self.config.repeat_threshold:
            return None
        keep, records = self.objects.keep, self.records
        images, threshold = self.usable(), self.config.repeat_threshold
        return repeat_factors(records.image_of()[keep], records.labels[keep], images, threshold)


class EvalSet(Dataset[Any]):
    """Evaluation samples at the test size; their ground truth is used for the validation loss only.

    Args:
        records: the annotations.
        read: reads an image file.
        config: sizes, which objects are used.
        channels: of the images.
        scales: short sides of multi-scale testing, at which each image is returned too; none adds nothing.
    """

    def __init__(
        self,
        records: Annotations,
        read: ImageReader,
        config: DataConfig,
        channels: int = 3,
        scales: Sequence[int] = (),
    ) -> None:
        self.records, self.read, self.config = records, read, config
        self.channels, self.scales = channels, scales
        self.objects = train_objects(records, config.keep_difficult)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Sample:
        try:
            pixels, readable = self.read(self.records.files[i]), True
        except (UnreadableImage, OSError) as error:
            _LOG.warning("evaluated with no detections: %s", error)
            pixels, readable = np.zeros((*self.records.sizes[i], self.channels), dtype=np.uint8), False
        objects = self.records.objects(i)
        keep = self.objects.keep[objects]
        boxes, labels = transforms.clip_boxes(
            torch.from_numpy(self.objects.boxes[objects][keep]),
            torch.from_numpy(self.records.labels[objects][keep]),
            pixels.shape[:2],
        )
        original = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        image, boxes = transforms.resize(original, boxes, self.config.short_side[-1], self.config.max_side)
        sample = (image.contiguous(), {"boxes": boxes, "labels": labels}, i, pixels.shape[:2], readable)
        if not self.scales:
            return sample
        return *sample, transforms.at_scales(original, self.scales, self.config.short_side[-1], self.config.max_side)


class TrainBatchSampler:
    """Infinite batch sampler for training, grouped by aspect ratio.

    Shuffles each epoch and cuts it into groups of one step's images that are all landscape or all portrait. Each rank and
    each micro-batch takes its slice of a group. The order depends on the seed (and the repeat factors) alone, so that a
    resumed run continues with the same batches as an uninterrupted one.

    Args:
        usable: int64 [n], indices of the training images in the records.
        wide: bool [n], True for landscape images; all equal to disable the grouping.
        batch_size: images per step, over all ranks and micro-batches.
        micro_batches: batches per step in this process (gradient accumulation).
        rank: of this process.
        world: number of processes.
        seed: of the shuffle.
        start: the first step.
        factors: float64 [n], how often an image comes an epoch on average (:mod:`detection.data.repeat_factors`); None for
            once each.

    Raises:
        ValueError: batch_size is not a multiple of world * micro_batches.
    """

    def __init__(
        self,
        usable: NDArray[np.int64],
        wide: NDArray[np.bool_],
        batch_size: int,
        *,
        micro_batches: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        start: int = 0,
        factors: NDArray[np.float64] | None = None,
    ) -> None:
        if batch_size % (micro_batches * world):
            raise ValueError(
                f"solver.batch_size={batch_size} must be a multiple of processes x accumulate = {world} x {micro_batches}"
            )
        self.usable, self.wide, self.batch_size = usable, wide, batch_size
        self.micro_batches, self.rank, self.world, self.seed, self.start = micro_batches, rank, world, seed, start
        self.factors = factors

    def groups(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the (image, position) keys of one step after the other."""
        buckets: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        position, epoch = 0, 0
        while True:
            for k in self._order(np.random.default_rng((self.seed, epoch))):
                group = buckets[bool(self.wide[k])]
                group.append((int(self.usable[k]), position))
                position += 1
                if len(group) == self.batch_size:
                    yield group
                    buckets[bool(self.wide[k])] = []
            epoch += 1

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.permutation(len(self.usable)) if self.factors is None else epoch_rows(self.factors, rng)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size // (self.world * self.micro_batches)
        for step, group in enumerate(self.groups()):
            if step < self.start:
                continue
            for micro_batch in range(self.micro_batches):
                first = (micro_batch * self.world + self.rank) * size
                yield group[first : first + size]


def train_loader(
    dataset: TrainSet, batch_size: int, *, micro_batches: int, rank: int, world: int, seed: int, start: int, pin: bool
) -> DataLoader[Any]:
    """Return an infinite loader of this process's batches, from step ``start`` on.

    Args:
        dataset: the training set.
        batch_size: images per step, over all ranks and micro-batches.
        micro_batches, rank, world, seed, start: as for :class:`TrainBatchSampler`.
        pin: pin the batches' memory.
    """
    usable = dataset.usable()
    height, width = dataset.records.sizes[usable, 0], dataset.records.sizes[usable, 1]
    wide = (width > height) if dataset.config.group_by_aspect else np.zeros(len(usable), dtype=bool)
    sampler = TrainBatchSampler(
        usable,
        wide,
        batch_size,
        micro_batches=micro_batches,
        rank=rank,
        world=world,
        seed=seed,
        start=start,
        factors=dataset.repeat_factors(),
    )
    workers = dataset.config.workers
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,  # type: ignore[arg-type]
        persistent_workers=workers > 0,
        worker_init_fn=init_worker,
        timeout=dataset.config.timeout if workers else 0,
    )


def eval_loader(dataset: EvalSet, *, rank: int = 0, world: int = 1, pin: bool = False) -> DataLoader[Any]:
    """Return a loader of this rank's images, once each, at batch size 1: padding would change the features at borders."""
    indices = range(rank, len(dataset), world)
    workers = dataset.config.workers
    return DataLoader(
        dataset,
        sampler=indices,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=init_worker,
        timeout=dataset.config.timeout if workers else 0,
    )


def init_worker(worker: int) -> None:
    """Ignore SIGINT and delay SIGTERM in a DataLoader worker.

    Both reach the whole process group. Workers must live until the step is finished and the checkpoint saved; one that
    hangs exits after ``_GRACE_SECONDS``. Windows has no alarm, and its SIGTERM reaches one process alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE_SECONDS) and None)
