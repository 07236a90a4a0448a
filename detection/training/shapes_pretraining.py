"""Pretrain a detector on mosaics of synthetic crops with one object each, in place of ImageNet pretraining. A mosaic has
many more objects per pixel than an image, so that the trunk learns outlines in minutes."""

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from detection.config import DataConfig, PretrainConfig
from detection.data.synthetic import CLASSES, draw_crop
from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.structures import Target
from detection.ops.device import autocast
from detection.training.precise_bn import precise_bn_statistics
from detection.utils.precision import Precision, autocast_dtype

_LOG = logging.getLogger(__name__)
_CHUNK = 100  # crops per DataLoader batch
_STATISTICS_BATCHES = 45
_WEIGHT_DECAY = 0.02
_CLIP_NORM = 5.0


class Crops(Dataset[tuple[Tensor, int, Tensor]]):
    """Synthetic crops, each determined by its index and the seed: image uint8 [3, side, side], label (0 is clutter without
    an object), and the object's box xyxy [4] in pixels."""

    def __init__(self, side: int, seed: int) -> None:
        self.side, self.seed = side, seed

    def __getitem__(self, i: int) -> tuple[Tensor, int, Tensor]:
        rng = np.random.default_rng((self.seed, self.side, i))
        label = int(rng.integers(len(CLASSES) + 1))
        image, box = draw_crop(rng, label, self.side)
        return torch.from_numpy(image).permute(2, 0, 1), label, torch.from_numpy(box).float()


def draw_crops(count: int, side: int, seed: int, workers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``count`` crops: uint8 [count, 3, side, side], labels [count] and boxes [count, 4]."""
    chunks = [list(range(i, min(i + _CHUNK, count))) for i in range(0, count, _CHUNK)]
    loader = DataLoader(Crops(side, seed), batch_sampler=chunks, num_workers=workers)
    images, labels, boxes = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels), torch.cat(boxes)


def augment(images: Tensor, boxes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rotate a batch [N, 3, S, S] and its boxes [N, 4] by a random multiple of 90°, flip it, permute its channels and invert
    its colours: 96 augmentations that keep every outline's class."""
    rotations, flip, invert = (int(torch.randint(k, (1,), generator=generator)) for k in (4, 2, 2))
    side = images.shape[-1]
    images = images[:, torch.randperm(3, generator=generator)]
    for _ in range(rotations):  # counter-clockwise: (x, y) -> (y, side - x)
        images, (x1, y1, x2, y2) = images.rot90(1, (2, 3)), boxes.unbind(1)
        boxes = torch.stack((y1, side - x2, y2, side - x1), dim=1)
    if flip:
        images, (x1, y1, x2, y2) = images.flip(3), boxes.unbind(1)
        boxes = torch.stack((side - x2, y1, side - x1, y2), dim=1)
    return (255 - images if invert else images), boxes


def make_mosaics(images: Tensor, labels: Tensor, boxes: Tensor, grid: int) -> tuple[Tensor, list[Target]]:
    """Tile crops [M·grid², 3, S, S] row by row into mosaics [M, 3, grid·S, grid·S]; return them with their targets."""
    side, tiles = images.shape[-1], grid * grid
    mosaics = images.view(-1, grid, grid, 3, side, side).permute(0, 3, 1, 4, 2, 5)
    index = torch.arange(tiles, device=boxes.device)
    corner = torch.stack((index % grid, index // grid), dim=1).repeat(1, 2) * side
    labels, boxes = labels.view(-1, tiles), boxes.view(-1, tiles, 4) + corner
    targets: list[Target] = [{"boxes": b[n > 0], "labels": n[n > 0]} for b, n in zip(boxes, labels, strict=True)]
    return mosaics.reshape(len(targets), 3, grid * side, grid * side), targets


def pretrain_on_crops(
    model: FasterRCNN, config: PretrainConfig, data: DataConfig, seed: int, device: torch.device, precision: Precision
) -> None:
    """Train a detector in place on mosaics of crops; then recompute its batch norm statistics.

    Args:
        model: moved to ``device``.
        config: the pretraining's section.
        data: the data section, whose workers draw the crops.
        seed: of the run.
        device: computes.
        precision: as ``solver.precision``.

    Raises:
        ValueError: the dataset is not the synthetic one.
    """
    if data.format != "shapes":
        raise ValueError(
            f"pretrain.iterations={config.iterations} trains on synthetic shapes, but data.format is {data.format}: set "
            "pretrain.iterations=0, and pass pretrained weights with --weights"
        )
    started = time.perf_counter()
    dtype = autocast_dtype(precision, device)
    pools = [_crop_pool(config, side, seed, data.workers, device) for side in config.sizes]
    _LOG.info("pretraining on crops of %s pixels (generated in %.0f s)", config.sizes, time.perf_counter() - started)
    model = model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.iterations, pct_start=0.2)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    generator = torch.Generator().manual_seed(seed)

    def losses(pool: Sequence[Tensor]) -> dict[str, Tensor]:
        grid = max(round(config.mosaic / pool[0].shape[-1]), 1)
        indices = torch.randint(len(pool[0]), (config.batch_size * grid**2,), generator=generator).to(device)
        images, labels, boxes = (t[indices] for t in pool)
        images, boxes = augment(images, boxes, generator)
        images, targets = make_mosaics(images, labels, boxes, grid)
        with autocast(device, dtype):
            return model(list(images.float() / 255), targets)

    log_every = max(config.iterations // 10, 1)
    recent: list[dict[str, Tensor]] = []
    for step in range(1, config.iterations + 1):
        step_losses = losses(pools[_choose_size(step, config, generator)])
        optimizer.zero_grad()
        scaler.scale(torch.stack(list(step_losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        recent.append({k: v.detach() for k, v in step_losses.items()})
        if step % log_every == 0:
            mean = {k: float(torch.stack([r[k] for r in recent]).mean()) for k in step_losses}
            text = "  ".join(f"{k.removeprefix('loss_')} {v:.3f}" for k, v in mean.items())
            _LOG.info(
                "pretraining: step %d/%d  %s  %.0f s", step, config.iterations, text, time.perf_counter() - started
            )
            recent.clear()
    with precise_bn_statistics(model):
        for i in range(_STATISTICS_BATCHES):
            losses(pools[i % len(pools)])


def _crop_pool(config: PretrainConfig, side: int, seed: int, workers: int, device: torch.device) -> Sequence[Tensor]:
    count = config.crops * config.sizes[0] // side
    return [t.to(device) for t in draw_crops(max(count, 1), side, seed, max(workers, 1))]


def _choose_size(step: int, config: PretrainConfig, generator: torch.Generator) -> int:
    """Return the index of a step's crop size: the smallest for the first quarter, where steps are cheapest, then random."""
    if step <= config.iterations // 4:
        return 0
    return int(torch.randint(len(config.sizes), (1,), generator=generator))
