"""The learning rate over a run. Plain numbers."""

import math
from dataclasses import dataclass
from typing import Any

from detection.config import SolverConfig


def iterations(value: float, max_iter: int) -> int:
    """Return a number of steps, given as such or, below 1, as a fraction of the run."""
    return round(value * max_iter) if 0 < value < 1 else int(value)


def scaled_lr(config: SolverConfig) -> float:
    """Return the rate for the batch: ``base_lr`` is that of ``reference_batch`` images, scaled by ``lr_scaling``."""
    ratio = config.batch_size / config.reference_batch
    return config.base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.lr_scaling]


@dataclass
class Schedule:
    """Factor on the learning rate at each step: linear warm-up, then steps, a cosine, or decays when evaluations plateau.

    Attributes:
        max_iter: steps of the run.
        warmup: steps of warm-up.
        warmup_factor: factor at step 0.
        milestones: steps at which the rate is multiplied by ``gamma``; None for a cosine to 0.
        gamma: see milestones and decays.
        falls: decays by evaluation: how often the rate has been multiplied by ``gamma`` besides.
        halvings: how often it has been halved by a recovery. These two change in a run, and are part of a checkpoint:
            torch's LambdaLR saves the attributes of its callables.
    """

    max_iter: int
    warmup: int
    warmup_factor: float
    milestones: tuple[int, ...] | None
    gamma: float
    falls: int = 0
    halvings: int = 0

    def __call__(self, step: int) -> float:
        """The factor for the update that follows ``step`` updates."""
        warm = 0.5**self.halvings
        if step < self.warmup:
            progress = step / self.warmup
            warm *= self.warmup_factor * (1 - progress) + progress
        if self.milestones is None:
            return warm * 0.5 * (1 + math.cos(math.pi * min(step, self.max_iter) / self.max_iter))
        return warm * self.gamma ** (self.falls + sum(step >= m for m in self.milestones))

    def length(self) -> dict[str, Any]:
        """Return the attributes that follow from the number of steps; the others are a checkpoint's."""
        return {"max_iter": self.max_iter, "warmup": self.warmup, "milestones": self.milestones}


def make_schedule(config: SolverConfig) -> Schedule:
    """Return the schedule of a configuration, its fractions turned into steps."""
    n = config.max_iter
    if not n:
        raise ValueError(
            "solver.max_iter=auto is for training detectors, which count their images: here it wants a number"
        )
    steps = tuple(iterations(s, n) for s in config.steps)
    milestones = {"step": steps, "cosine": None, "plateau": ()}[config.schedule]
    return Schedule(n, iterations(config.warmup, n), config.warmup_factor, milestones, config.gamma)
