"""The trunk and conv5_x as a classifier of drawn crops, before they detect: what ImageNet does for the papers, in
miniature. Crops of several sizes go through RoI pooling, so that conv5_x meets what it will meet in the detector."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from detection.config import DataConfig, PretrainConfig
from detection.data.shapes import CLASSES, draw_crop

_LOG = logging.getLogger(__name__)
_CHUNK = 100
_STATISTICS_BATCHES = 15


class Crops(Dataset[tuple[Tensor, int, float]]):
    """Drawn crops, each of its number alone: image uint8 [3, side, side], label (0 is clutter without an object), and the
    side of the square that frames the object."""

    def __init__(self, side: int, seed: int) -> None:
        self.side, self.seed = side, seed

    def __getitem__(self, i: int) -> tuple[Tensor, int, float]:
        rng = np.random.default_rng((self.seed, self.side, i))
        label = int(rng.integers(len(CLASSES) + 1))
        image, extent = draw_crop(rng, label, self.side)
        return torch.from_numpy(image).permute(2, 0, 1), label, extent


def draw_crops(count: int, side: int, seed: int, workers: int) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` crops: uint8 [count, 3, side, side], labels [count] and extents [count]."""
    chunks = [list(range(i, min(i + _CHUNK, count))) for i in range(0, count, _CHUNK)]
    loader = DataLoader(Crops(side, seed), batch_sampler=chunks, num_workers=workers)
    images, labels, extents = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels), torch.cat(extents).float()


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """A batch [n, 3, s, s] turned by a multiple of 90°, mirrored, its colours exchanged and inverted: 96 ways that keep
    every outline's class and its frame about the middle."""
    turn, mirror, invert = (int(torch.randint(k, (1,), generator=generator)) for k in (4, 2, 2))
    images = images.rot90(turn, (2, 3))[:, torch.randperm(3, generator=generator)]
    images = images.flip(3) if mirror else images
    return 255 - images if invert else images


def frames(extents: Tensor, side: int) -> list[Tensor]:
    """Squares of these sides about the middle of crops, cut at their edges: a box [1, 4] each."""
    low, high = (side - extents) / 2, (side + extents) / 2
    return list(torch.stack((low, low, high, high), dim=1).clamp(0, side)[:, None])


def pretrain_on_crops(
    trunk: nn.Module,
    pooler: nn.Module,
    conv5: nn.Module,
    classes: nn.Linear,
    config: PretrainConfig,
    data: DataConfig,
    seed: int,
    recipe: Any,
    bf16: bool,
) -> float:
    """Trains ``trunk``, ``conv5`` and the layer ``classes`` in place; its label 0 is clutter, as a detector's is background.

    Returns:
        Accuracy over the last tenth of the steps.

    Raises:
        ValueError: the data are not the drawn ones.
    """
    if data.format != "shapes":
        raise ValueError(
            f"pretrain.iterations={config.iterations} draws crops of shapes, but data.format is {data.format}: set "
            "pretrain.iterations=0, and give weights with --weights"
        )
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pools = [_pool(config, side, seed, data.workers, device) for side in config.sizes]
    _LOG.info("pretraining on crops of %s pixels (drawn in %.0f s)", config.sizes, time.perf_counter() - began)
    net = nn.ModuleList([trunk, pooler, conv5, classes])
    net = net.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.iterations, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    tenth = max(config.iterations // 10, 1)
    correct: list[Tensor] = []
    for step in range(1, config.iterations + 1):
        images, labels, extents = pools[_choose(step, config, generator)]
        side = images.shape[-1]
        # as many pixels whatever the size
        count = max(config.batch_size * config.sizes[0] ** 2 // side**2, 1)
        chosen = torch.randint(len(images), (count,), generator=generator)
        batch, label = vary(images[chosen], generator).float().div_(255), labels[chosen]
        batch = recipe.normalise(batch).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            regions = pooler(trunk(batch), frames(extents[chosen], side))
            logits = classes(conv5(regions).mean(dim=(2, 3)))
        loss = F.cross_entropy(logits.float(), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        correct.append((logits.argmax(1) == label).float().mean().detach())
        if step % tenth == 0:
            accuracy, seconds = float(torch.stack(correct[-tenth:]).mean()), time.perf_counter() - began
            _LOG.info("pretraining: step %d/%d  accuracy %.3f  %.0f s", step, config.iterations, accuracy, seconds)
    recompute_statistics(trunk, pools, recipe, config.batch_size * config.sizes[0] ** 2)
    return float(torch.stack(correct[-tenth:]).mean())


@torch.no_grad()
def recompute_statistics(trunk: nn.Module, pools: Sequence[Sequence[Tensor]], recipe: Any, batch_pixels: int) -> None:
    """Measures the trunk's norms anew for its final weights, as means over many batches, before they are fixed (ResNet
    paper, appendix A): the running averages of training lag behind the weights."""
    norms = [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
    trunk.train()
    for images, *_ in pools:
        count = max(batch_pixels // images.shape[-1] ** 2, 1)
        for first in range(0, min(_STATISTICS_BATCHES * count, len(images)), count):
            batch = recipe.normalise(images[first : first + count].float().div_(255))
            trunk(batch.contiguous(memory_format=torch.channels_last))


def _pool(config: PretrainConfig, side: int, seed: int, workers: int, device: torch.device) -> Sequence[Tensor]:
    count = config.crops * config.sizes[0] // side
    return [t.to(device) for t in draw_crops(max(count, 1), side, seed, max(workers, 1))]


def _choose(step: int, config: PretrainConfig, generator: torch.Generator) -> int:
    """Which size a step has: the smallest alone for the first quarter, where most is learned for the least, then any."""
    if step <= config.iterations // 4:
        return 0
    return int(torch.randint(len(config.sizes), (1,), generator=generator))
