"""Learning rate schedule of a run."""

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any

from detection.config import SolverConfig

_LOG = logging.getLogger(__name__)


def iterations(value: float, max_iter: int) -> int:
    """Return a number of steps; a value below 1 is a fraction of the run."""
    return round(value * max_iter) if 0 < value < 1 else int(value)


def scaled_lr(config: SolverConfig) -> float:
    """Return the learning rate for the batch size: ``base_lr``, which is for ``reference_batch`` images, scaled."""
    ratio = config.batch_size / config.reference_batch
    return config.base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.lr_scaling]


def in_steps(config: SolverConfig, images: int) -> SolverConfig:
    """Return the configuration with what it gives in epochs converted to steps, and log each number with its reason.

    Args:
        config: of the run.
        images: of the training set: an epoch has images / batch_size steps.
    """
    per_epoch = images / config.batch_size
    if config.max_epochs is not None:
        # rounded up: the last epoch is whole
        n = max(math.ceil(config.max_epochs * per_epoch - 1e-9), 1)
        _LOG.info(
            "solver.max_epochs=%g: %d steps, %d images at %d a step", config.max_epochs, n, images, config.batch_size
        )
        config = dataclasses.replace(config, max_iter=n, max_epochs=None)
    if config.steps_epochs:
        steps = tuple(max(round(e * per_epoch), 1) for e in config.steps_epochs)
        _LOG.info("solver.steps_epochs: after %s steps", ", ".join(map(str, steps)))
        config = dataclasses.replace(config, steps=steps, steps_epochs=())
    if config.warmup_epochs is not None:
        warmup = round(config.warmup_epochs * per_epoch)
        _LOG.info("solver.warmup_epochs=%g: %d steps", config.warmup_epochs, warmup)
        config = dataclasses.replace(config, warmup=warmup, warmup_epochs=None)
    return config


def unreached(config: SolverConfig) -> list[str]:
    """Return what a schedule has and a run is too short for, each as a sentence for a warning."""
    n, found = config.max_iter, []
    late = [step for step in config.steps if iterations(step, n) >= n]
    if config.schedule == "step" and late:
        found.append(
            f"solver.steps {', '.join(f'{step:g}' for step in late)} never come, since solver.max_iter is {n}: the learning "
            "rate is not lowered there; fractions such as solver.steps=[0.78,0.93] follow the length"
        )
    if iterations(config.warmup, n) > n:
        found.append(
            f"solver.warmup={config.warmup:g} is longer than the run, solver.max_iter={n}: the learning rate stays below "
            "solver.base_lr"
        )
    return found


@dataclass
class Schedule:
    """Factor on the learning rate at each step: linear warm-up, then step, cosine or plateau decay.

    Attributes:
        max_iter: steps of the run.
        warmup: steps of warm-up.
        warmup_factor: factor at step 0.
        milestones: steps at which the learning rate is multiplied by ``gamma``; None for cosine decay to 0.
        gamma: decay factor.
        falls: number of plateau decays by ``gamma`` so far.
        halvings: number of halvings by recoveries so far. These two change during a run and are saved in training
            checkpoints: torch's LambdaLR saves the attributes of its callables.
    """

    max_iter: int
    warmup: int
    warmup_factor: float
    milestones: tuple[int, ...] | None
    gamma: float
    falls: int = 0
    halvings: int = 0

    def __call__(self, step: int) -> float:
        """Return the factor for the update after ``step`` updates."""
        factor = 0.5**self.halvings
        if step < self.warmup:
            progress = step / self.warmup
            factor *= self.warmup_factor * (1 - progress) + progress
        if self.milestones is None:
            return factor * 0.5 * (1 + math.cos(math.pi * min(step, self.max_iter) / self.max_iter))
        return factor * self.gamma ** (self.falls + sum(step >= m for m in self.milestones))

    def length(self) -> dict[str, Any]:
        """Return the attributes that depend on the number of steps; a resumed run takes the others from its checkpoint."""
        return {"max_iter": self.max_iter, "warmup": self.warmup, "milestones": self.milestones}


def make_schedule(config: SolverConfig) -> Schedule:
    """Return the schedule of a configuration, with fractions converted to steps.

    Raises:
        ValueError: ``max_iter`` is not set.
    """
    n = config.max_iter
    if not n:
        length = "max_iter=auto" if config.max_epochs is None else f"max_epochs={config.max_epochs:g}"
        raise ValueError(f"solver.{length} needs the data, which nothing gave here: set solver.max_iter to a number")
    steps = tuple(iterations(s, n) for s in config.steps)
    milestones = {"step": steps, "cosine": None, "plateau": ()}[config.schedule]
    return Schedule(n, iterations(config.warmup, n), config.warmup_factor, milestones, config.gamma)
