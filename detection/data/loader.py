"""From records to batches: one sample, the endless order of training, and the loaders."""

import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detection.config import DataConfig
from detection.data import transforms
from detection.data.annotations import DataError, Records, train_objects
from detection.data.image import UnreadableImage

_LOG = logging.getLogger(__name__)
_GRACE = 30  # seconds that a worker lives on after SIGTERM
ReadPicture = Callable[[str], NDArray[np.uint8]]


@dataclass(frozen=True)
class Batch:
    """What a step or an evaluation gets.

    Attributes:
        images: uint8 [3, H, W] each, at the size at which they are seen.
        targets: {"boxes", "labels"} each, in those pixels.
        index: the images' positions in their records.
        sizes: original (height, width) each, to which detections are scaled back.
        readable: False for a file that could not be decoded; its image is black and answers nothing.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    index: list[int]
    sizes: list[tuple[int, int]]
    readable: list[bool]

    def pin_memory(self) -> "Batch":
        """Called by a DataLoader that pins memory."""
        images = [image.pin_memory() for image in self.images]
        return Batch(
            images,
            [{k: v.pin_memory() for k, v in t.items()} for t in self.targets],
            self.index,
            self.sizes,
            self.readable,
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``."""
    images = [image.to(device, non_blocking=True) for image in batch.images]
    targets = [{k: v.to(device, non_blocking=True) for k, v in t.items()} for t in batch.targets]
    return Batch(images, targets, batch.index, batch.sizes, batch.readable)


def float_images(batch: Batch) -> list[Tensor]:
    """The batch's images as float RGB 0..1."""
    return [image.float().div_(255) for image in batch.images]


Sample = tuple[Tensor, dict[str, Tensor], int, tuple[int, int], bool]


def collate(samples: list[Sample]) -> Batch:
    """Samples side by side; nothing is padded here."""
    images, targets, index, sizes, readable = zip(*samples, strict=True)
    return Batch(list(images), list(targets), list(index), list(sizes), list(readable))


class TrainSet(Dataset[Any]):
    """Augmented samples. The key is (image, position): what happens to a picture depends on the seed and on its position
    in the run alone, not on processes or on what came before.

    Args:
        records, read: the images and how to read one.
        config: sizes, mirroring, augmentation, which objects count.
        seed: of the run.
    """

    def __init__(self, records: Records, read: ReadPicture, config: DataConfig, seed: int) -> None:
        self.records, self.read, self.config, self.seed = records, read, config, seed
        self.objects = train_objects(records, config.keep_difficult)
        self.augment = transforms.Augment(config.augment) if config.augment else None

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        i, position = key
        rng = np.random.default_rng((self.seed, position))
        i, picture = self._read(i)
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        where = self.records.objects(i)
        keep = self.objects.keep[where]
        boxes = torch.from_numpy(self.objects.boxes[where][keep])
        labels = torch.from_numpy(self.records.labels[where][keep])
        if self.augment is not None:
            boxes, labels = transforms.valid(boxes, labels, picture.shape[:2])
            image, boxes, labels = self.augment(image, boxes, labels, int(rng.integers(2**32)))
        image, boxes = transforms.resize(image, boxes, int(rng.choice(self.config.short_side)), self.config.max_side)
        if rng.random() < self.config.flip:
            image, boxes = transforms.flip(image, boxes)
        boxes, labels = transforms.valid(boxes, labels, (image.shape[-2], image.shape[-1]))
        return image.contiguous(), {"boxes": boxes, "labels": labels}, i, picture.shape[:2], True

    def _read(self, i: int) -> tuple[int, NDArray[np.uint8]]:
        """The picture of image i, or where that is damaged, of the next one that is not: one bad file must not end a run."""
        for k in range(len(self.records)):
            substitute = (i + k) % len(self.records)
            try:
                return substitute, self.read(self.records.files[substitute])
            except (UnreadableImage, OSError) as error:
                _LOG.warning("left out of training, the next picture takes its place: %s", error)
        raise DataError(f"{self.records.name}: none of its {len(self.records)} pictures can be read")

    def usable(self) -> NDArray[np.int64]:
        """The images that training draws from: all, or those with an object left."""
        if self.config.keep_empty:
            return np.arange(len(self.records))
        image_of = np.repeat(np.arange(len(self.records)), np.diff(self.records.offsets))
        return np.unique(image_of[self.objects.keep])


class EvalSet(Dataset[Any]):
    """Images at their testing size, with their ground truth, which only a validation loss looks at."""

    def __init__(self, records: Records, read: ReadPicture, config: DataConfig) -> None:
        self.records, self.read, self.config = records, read, config
        self.objects = train_objects(records, config.keep_difficult)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Sample:
        try:
            picture, readable = self.read(self.records.files[i]), True
        except (UnreadableImage, OSError) as error:
            _LOG.warning("counts as without detections: %s", error)
            picture, readable = np.zeros((*self.records.sizes[i], 3), dtype=np.uint8), False
        where = self.records.objects(i)
        keep = self.objects.keep[where]
        boxes, labels = transforms.valid(
            torch.from_numpy(self.objects.boxes[where][keep]),
            torch.from_numpy(self.records.labels[where][keep]),
            picture.shape[:2],
        )
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        image, boxes = transforms.resize(image, boxes, self.config.short_side[-1], self.config.max_side)
        return image.contiguous(), {"boxes": boxes, "labels": labels}, i, picture.shape[:2], readable


class TrainOrder:
    """The endless order of training, as a batch sampler: shuffled epochs, cut into groups of one step's images that are
    all wide or all tall; each rank and each accumulated part takes its slice of a group.

    The order depends on the seed alone, so a resumed run begins at its step and sees what it would have seen.

    Args:
        wide: bool [n], of the usable images; all equal where nothing is to be grouped.
        usable: int [n], their positions in the records.
        batch_size: images a step, over all ranks and parts.
        parts: slices of a step in this process (accumulation).
        rank, world: this process and their number.
        seed: of the order.
        start: the step to begin at.
    """

    def __init__(
        self,
        usable: NDArray[np.int64],
        wide: NDArray[np.bool_],
        batch_size: int,
        *,
        parts: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        start: int = 0,
    ) -> None:
        if batch_size % (parts * world):
            raise ValueError(
                f"solver.batch_size={batch_size} must be a multiple of processes x accumulate = {world} x {parts}"
            )
        self.usable, self.wide, self.batch_size = usable, wide, batch_size
        self.parts, self.rank, self.world, self.seed, self.start = parts, rank, world, seed, start

    def groups(self) -> Iterator[list[tuple[int, int]]]:
        """One step's (image, position) after the other."""
        waiting: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        position, epoch = 0, 0
        while True:
            for k in np.random.default_rng((self.seed, epoch)).permutation(len(self.usable)):
                group = waiting[bool(self.wide[k])]
                group.append((int(self.usable[k]), position))
                position += 1
                if len(group) == self.batch_size:
                    yield group
                    waiting[bool(self.wide[k])] = []
            epoch += 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size // (self.world * self.parts)
        for step, group in enumerate(self.groups()):
            if step < self.start:
                continue
            for part in range(self.parts):
                first = (part * self.world + self.rank) * size
                yield group[first : first + size]


def train_loader(
    dataset: TrainSet, batch_size: int, *, parts: int, rank: int, world: int, seed: int, start: int, pin: bool
) -> DataLoader[Any]:
    """Endless batches of this process's share of each step, from step ``start`` on."""
    usable = dataset.usable()
    height, width = dataset.records.sizes[usable, 0], dataset.records.sizes[usable, 1]
    wide = (width > height) if dataset.config.group_by_aspect else np.zeros(len(usable), dtype=bool)
    order = TrainOrder(usable, wide, batch_size, parts=parts, rank=rank, world=world, seed=seed, start=start)
    workers = dataset.config.workers
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,  # type: ignore[arg-type]
        persistent_workers=workers > 0,
        worker_init_fn=leave_interrupts,
        timeout=dataset.config.timeout if workers else 0,
    )


def eval_loader(dataset: EvalSet, *, rank: int = 0, world: int = 1, pin: bool = False) -> DataLoader[Any]:
    """This process's share of the images, once each and one at a time: padding would change what the borders see."""
    indices = range(rank, len(dataset), world)
    workers = dataset.config.workers
    return DataLoader(
        dataset,
        sampler=indices,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=leave_interrupts,
        timeout=dataset.config.timeout if workers else 0,
    )


def leave_interrupts(worker: int) -> None:
    """Ctrl-C, and SIGTERM to a whole group, reach the workers too, who must go on until the step is done and the state
    saved; one that hangs ends a little later."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE) and None)
