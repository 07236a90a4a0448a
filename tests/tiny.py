"""A detector of a few thousand weights, an image set of arrays, and stand-ins for a trainer: for tests of milliseconds."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from detection import FasterRCNN
from detection.data.annotations import Annotations
from detection.data.loader import Batch

CLASSES = ("cat", "dog")
SIZE = (48, 64)  # height, width


class OneMap(nn.Module):
    """A backbone of one map, 8 channels at stride 16."""

    out_channels, stride = 8, 16

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 16, 16)

    def forward(self, x):
        return self.conv(x).relu()


def detector(**roi):
    """A detector of two classes on :class:`OneMap`."""
    torch.manual_seed(0)
    options = {"resolution": 2, "fc_channels": 8, "batch_per_image": 8} | roi
    limits = {"after_nms_train": 10, "after_nms_test": 10}
    return FasterRCNN(OneMap(), len(CLASSES), anchors={"sizes": (16, 32)}, rpn={"channels": 8} | limits, roi=options)


def records(count=3):
    """Images named "0", "1", …; image i has i boxes, of labels 1, 2, 1, …"""
    boxes = [[[4.0 + k, 4, 30 + k, 40] for k in range(i)] for i in range(count)]
    labels = [[1 + k % 2 for k in range(i)] for i in range(count)]
    files = [str(i) for i in range(count)]
    return Annotations.from_arrays(files, boxes, labels, CLASSES, sizes=[SIZE] * count)


def pixels(name):
    """The image of a name of :func:`records`: noise that the name seeds."""
    return np.random.default_rng(int(name)).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def batch(images=2):
    """A batch of these many images with a box each."""
    generator = torch.Generator().manual_seed(5)
    tensors = [torch.randint(256, (3, *SIZE), dtype=torch.uint8, generator=generator) for _ in range(images)]
    target = {"boxes": torch.tensor([[4.0, 4, 30, 40]]), "labels": torch.tensor([2])}
    return Batch(tensors, [dict(target) for _ in range(images)], list(range(images)), [SIZE] * images, [True] * images)


def trainer(step=0, **attributes):
    """What callbacks read of Lightning's Trainer in a run of one process."""
    same = SimpleNamespace(broadcast=lambda value: value, reduce_boolean_decision=lambda value, all: value)
    usual = {"global_step": step, "global_rank": 0, "is_global_zero": True, "world_size": 1, "should_stop": False}
    return SimpleNamespace(**(usual | {"strategy": same} | attributes))
