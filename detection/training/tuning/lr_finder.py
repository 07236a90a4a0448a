"""A learning rate range test (Smith, Cyclical Learning Rates, 2017, section 3.3): the rate grows exponentially from step to
step, and the loss is watched.

Lightning's Tuner.lr_find would do the same, but it wants the rate as an attribute that it sets, and replaces the schedule
that this project's training module brings; so the loop is here, with its smoothing, its stop and its suggestion (the rate at
which the smoothed loss falls most steeply, over the logarithm of the rate).
"""

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from detection.checkpoint.metadata import Classes
from detection.config import Config
from detection.data.loader import Batch, TrainSet, float_images, to_device, train_loader
from detection.data.opening import open_source
from detection.modeling.build import build_model
from detection.modeling.faster_rcnn import FasterRCNN
from detection.ops.device import autocast
from detection.training.auto import resolve
from detection.training.detection_module import DetectionModule
from detection.training.run import initialise
from detection.training.schedule import scaled_lr
from detection.training.trainer import run_device
from detection.utils.atomic_io import replacing, require_new, write_json
from detection.utils.precision import autocast_dtype
from detection.utils.progress import progress_bar
from detection.utils.settings import run_settings

_LOG = logging.getLogger(__name__)
# Lightning's: weight of the past in the smoothed loss, multiple of the best that ends the test, points left out at the ends
_PAST, _DIVERGED, _FIRST, _LAST = 0.98, 4.0, 10, 1


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test.

    Attributes:
        rates: learning rate of each step (of the layers that have no factor of their own).
        losses: total loss of each step.
        smoothed: the same, averaged exponentially and corrected for its start.
        suggestion: the rate of the steepest fall; None where there are too few finite steps.
        base_lr: solver.base_lr that gives it at this batch size.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    base_lr: float | None


def find_lr(
    config: Config,
    output: Path,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    config_name: str = "",
) -> RangeTest:
    """Run a range test and write lr_finder.json and lr_finder.png; nothing else is changed, and no weights are kept.

    Args:
        config: of the run to come.
        output: folder of the two files, neither of which may exist.
        lowest, highest: the range of rates.
        steps: from one to the other.
        config_name: for messages.

    Raises:
        ValueError, FileNotFoundError: an impossible range; or invalid or missing data or weights.
    """
    if not 0 < lowest < highest or steps < 2:
        raise ValueError(f"wanted rates from low to high in 2 steps or more, got {lowest:g} to {highest:g} in {steps}")
    files = [output / "lr_finder.json", output / "lr_finder.png"]
    require_new(files, "--output")
    with run_settings():
        module, dataset = _prepare(config, config_name)
        rates = np.geomspace(lowest, highest, steps).tolist()
        losses = _losses(module, dataset, rates)
    smoothed = smooth(losses)
    suggestion = suggest(rates[: len(losses)], smoothed)
    solver = module.solver
    scale = scaled_lr(dataclasses.replace(solver, base_lr=1.0))
    base_lr = None if suggestion is None else suggestion / scale
    result = RangeTest(rates[: len(losses)], losses, smoothed, suggestion, base_lr)
    output.mkdir(parents=True, exist_ok=True)
    plain = [[v if math.isfinite(v) else None for v in values] for values in (losses, smoothed)]
    content = dataclasses.asdict(result) | {"losses": plain[0], "smoothed": plain[1], "now": scaled_lr(solver)}
    write_json(files[0], content)
    draw(result, scaled_lr(solver), files[1])
    return result


def _prepare(config: Config, config_name: str) -> tuple[DetectionModule, TrainSet]:
    """Return a new run's training module, as :func:`detection.training.run.train_config` begins with."""
    source = open_source(config.data, config_name=config_name, channels=config.model.in_channels)
    assert source.train is not None
    dataset = TrainSet(source.train, source.read, config.data, config.seed)
    config = resolve(config, dataset)
    L.seed_everything(config.seed, verbose=False)
    classes = Classes(source.train.classes, source.train.category_ids)
    model = build_model(config.model, len(classes.names))
    if config.pretrain.iterations:
        raise ValueError("a range test begins with the configuration's weights: set pretrain.iterations=0")
    initialise(model, config, classes, dataset)
    return DetectionModule(model, config, classes), dataset


def _losses(module: DetectionModule, dataset: TrainSet, rates: list[float]) -> list[float]:
    """Return the loss of each step, up to the one that diverged."""
    solver, seed, device = module.solver, module.config.seed, run_device()
    module.to(device).train()
    parts = solver.accumulate
    loader = iter(
        train_loader(dataset, solver.batch_size, micro_batches=parts, rank=0, world=1, seed=seed, start=0, pin=False)
    )
    optimizer = module.configure_optimizers()["optimizer"]
    factors = [group["initial_lr"] / scaled_lr(solver) for group in optimizer.param_groups]
    losses: list[float] = []
    with progress_bar() as bar:
        task = bar.add_task("range test", total=len(rates))
        for step, rate in enumerate(rates):
            for group, factor in zip(optimizer.param_groups, factors, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad()
            loss = 0.0
            for part in range(parts):
                total = _loss(module, to_device(next(loader), device), device, (seed, step, part)) / parts
                total.backward()
                loss += float(total.detach())
            losses.append(loss)
            smoothed = smooth(losses)
            if not math.isfinite(loss) or (step and smoothed[-1] > _DIVERGED * min(smoothed)):
                _LOG.info("stopped at step %d of %d: the loss diverged at a rate of %.2g", step + 1, len(rates), rate)
                break
            if solver.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), solver.clip_norm)
            optimizer.step()
            bar.advance(task)
    return losses


def _loss(module: DetectionModule, batch: Batch, device: torch.device, key: tuple[int, ...]) -> Tensor:
    generator = torch.Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    model: FasterRCNN = module.model  # type: ignore[assignment]
    # float16 without its scaler would underflow: the test then runs in float32
    dtype = autocast_dtype(module.solver.precision, device)
    with autocast(device, torch.float32 if dtype == torch.float16 else dtype):
        losses = model(float_images(batch), batch.targets, generator=generator)
    return torch.stack(list(losses.values())).sum()


def smooth(losses: list[float]) -> list[float]:
    """Return the exponential average of losses, divided by the sum of its weights so far."""
    average, result = 0.0, []
    for step, loss in enumerate(losses, 1):
        average = _PAST * average + (1 - _PAST) * loss
        result.append(average / (1 - _PAST**step))
    return result


def suggest(rates: list[float], smoothed: list[float]) -> float | None:
    """Return the rate at which the smoothed loss falls most steeply over the logarithm of the rate; None where fewer than
    three steps are left without the first and last ones, or it nowhere falls."""
    values = np.array(smoothed[_FIRST : len(smoothed) - _LAST])
    if len(values) < 3 or not np.isfinite(values).all():
        return None
    slope = np.gradient(values)  # the logarithm's steps are equal
    return float(rates[_FIRST + int(slope.argmin())]) if slope.min() < 0 else None


def draw(result: RangeTest, now: float, path: Path) -> None:
    """Plot the losses over the rate, with the suggestion and the configuration's own rate."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    finite = [v for v in result.losses if math.isfinite(v)]
    axes.plot(result.rates, result.losses, color="#56b4e9", linewidth=0.8, label="loss of a step")
    axes.plot(result.rates, result.smoothed, color="#0072b2", linewidth=2, label="smoothed")
    if result.suggestion is not None:
        label = f"suggested: {result.suggestion:.2g} (solver.base_lr={result.base_lr:.2g})"
        axes.axvline(result.suggestion, color="#d55e00", label=label)
    axes.axvline(now, color="grey", linestyle=":", label=f"configured: {now:.2g}")
    axes.set_xscale("log")
    if finite:
        best = min(finite)
        axes.set_ylim(min(0.0, best), max(max(finite[: max(len(finite) // 2, 1)]) * 1.3, best * 1.1))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("total loss")
    axes.legend(loc="upper left")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
