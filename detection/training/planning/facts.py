"""What a plan is made from: a folder's data as they will be trained on, and the machine."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detection.data.annotations import Annotations
from detection.data.loader import TrainSet
from detection.ops.device import default_device, is_gpu, memory_gb


@dataclass(frozen=True)
class DataFacts:
    """A training set in numbers.

    Attributes:
        images: that have objects to train on.
        empty: without.
        objects, classes: numbers of.
        short_side, long_side: medians over the images, in pixels.
        relative_sides: float64 [M], the square root of each object's area over its image's short side.
        rare: names of the classes with fewer than ten objects.
    """

    images: int
    empty: int
    objects: int
    classes: int
    short_side: int
    long_side: int
    relative_sides: NDArray[np.float64]
    rare: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """A computer.

    Attributes:
        device: cpu, cuda or mps.
        name: for messages.
        memory: of the GPU in GiB; 0 without one.
        cores: of the CPU.
    """

    device: str
    name: str
    memory: float
    cores: int


def data_facts(dataset: TrainSet) -> DataFacts:
    """Return the numbers of a training set."""
    records, objects = dataset.records, dataset.objects
    usable = dataset.usable()
    boxes = objects.boxes[objects.keep].astype(np.float64)
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    short = records.sizes.min(axis=1)
    counts = _counts(records, objects.keep)
    sizes = records.sizes[usable] if len(usable) else records.sizes
    return DataFacts(
        images=len(usable),
        empty=len(records) - len(usable),
        objects=int(objects.keep.sum()),
        classes=len(records.classes),
        short_side=int(np.median(sizes.min(axis=1))),
        long_side=int(np.median(sizes.max(axis=1))),
        relative_sides=sides / np.maximum(short[records.image_of()[objects.keep]], 1),
        rare=tuple(name for name, count in zip(records.classes, counts, strict=True) if 0 < count < 10),
    )


def _counts(records: Annotations, keep: NDArray[np.bool_]) -> list[int]:
    counts: list[int] = np.bincount(records.labels[keep], minlength=len(records.classes) + 1)[1:].tolist()
    return counts


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    device = default_device()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = memory_gb(device)
    if is_gpu(device):
        name = f"{torch.cuda.get_device_name(device)} with {memory:.0f} GiB"
    else:
        name = f"a CPU with {cores} cores" if str(device) == "cpu" else "Apple's GPU"
    return Machine("cuda" if is_gpu(device) else str(device), name, memory, cores)
