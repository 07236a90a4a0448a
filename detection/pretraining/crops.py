"""The trunk as a classifier of drawn crops, before it detects: what ImageNet does for the papers, in miniature."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from detection.config import DataConfig, PretrainConfig
from detection.data.shapes import CLASSES, draw_crop

_LOG = logging.getLogger(__name__)


class Crops(Dataset[tuple[Tensor, int]]):
    """Endless drawn crops, each of its number alone; label 0 is clutter without an object."""

    def __init__(self, side: int, seed: int) -> None:
        self.side, self.seed = side, seed

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        rng = np.random.default_rng((self.seed, 2, i))
        label = int(rng.integers(len(CLASSES) + 1))
        return torch.from_numpy(draw_crop(rng, label, self.side)).permute(2, 0, 1), label


class _Order:
    def __init__(self, steps: int, batch: int) -> None:
        self.steps, self.batch = steps, batch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            yield list(range(step * self.batch, (step + 1) * self.batch))


def pretrain_on_crops(
    trunk: nn.Module, conv5: Any, config: PretrainConfig, data: DataConfig, seed: int, recipe: Any
) -> float:
    """Trains ``trunk`` and ``conv5`` in place with a linear classifier on top, which is then thrown away.

    Returns:
        Accuracy over the last tenth of the steps (new crops each, so it is a test accuracy).

    Raises:
        ValueError: the data are not the drawn ones.
    """
    if data.format != "shapes":
        raise ValueError(
            f"pretrain.iterations={config.iterations} draws crops of shapes, but data.format is {data.format}; "
            "give weights with model.weights instead"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = nn.ModuleList([trunk, conv5, nn.Linear(conv5.spec.channels, len(CLASSES) + 1)])
    net = net.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.iterations, pct_start=0.2)
    order: Any = _Order(config.iterations, config.batch_size)
    loader = DataLoader(Crops(config.size, seed), batch_sampler=order, num_workers=data.workers)
    began, correct = time.perf_counter(), []
    for step, (images, labels) in enumerate(loader, 1):
        batch = recipe.normalise(images.to(device).float().div_(255)).contiguous(memory_format=torch.channels_last)
        logits = net[2](conv5(trunk(batch)).mean(dim=(2, 3)))
        labels = labels.to(device)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        correct.append((logits.argmax(1) == labels).float().mean().item())
        if step % max(config.iterations // 10, 1) == 0:
            recent = correct[-max(config.iterations // 10, 1) :]
            _LOG.info(
                "pretraining on crops: step %d/%d, loss %.3f, accuracy %.3f, %.0f s",
                step,
                config.iterations,
                loss.item(),
                sum(recent) / len(recent),
                time.perf_counter() - began,
            )
    last = correct[-max(config.iterations // 10, 1) :]
    return sum(last) / len(last)
