"""Evaluation during training: keep the best weights, and stop early without improvement."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from detection.training.callbacks.base import StepCallback
from detection.training.callbacks.checkpoints import Checkpoints
from detection.training.callbacks.metrics_log import MetricsLog, Row
from detection.training.callbacks.signals import Interruption
from detection.training.loop import TrainingModule

_LOG = logging.getLogger(__name__)


class Evaluation(StepCallback):
    """Evaluates every ``every`` steps and at the end; keeps the best weights; stops early without improvement.

    Args:
        run: the evaluation, called on every rank; the metrics of rank 0 are used.
        best_by: the metric that selects the best weights; larger is better.
        every: steps between evaluations; 0 evaluates only at the end.
        folder: of the run.
        metrics: log of the results; None on other ranks than 0.
        patience: evaluations without improvement before the run is stopped.
        checkpoints: saves again after each evaluation, so that a resumed run has the best metric.
        interruption: interrupts an evaluation on a signal.
        lengthened: the run is resumed with more steps: earlier evaluations without improvement are not counted.
        draw: draws images of the evaluation, when its metrics and weights are written.
    """

    def __init__(
        self,
        run: Callable[[Any], Row],
        best_by: str,
        every: int,
        folder: Path,
        metrics: MetricsLog | None,
        patience: int | None,
        checkpoints: Checkpoints,
        interruption: Interruption,
        lengthened: bool = False,
        draw: Callable[[], None] = lambda: None,
    ) -> None:
        self.run, self.best_by, self.every, self.patience = run, best_by, every, patience
        self.folder, self.metrics = folder, metrics
        self.checkpoints, self.interruption = checkpoints, interruption
        self.best, self.without_gain, self.done_at = -1.0, 0, -1
        self.lengthened, self.draw = lengthened, draw

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_start(trainer, module)
        if self.lengthened:
            self.without_gain = 0
        step = trainer.global_step
        if self.every and step and step % self.every == 0 and self.done_at != step:
            # the run was stopped between this step's checkpoint and its evaluation
            self.evaluate(trainer, module)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if self.every and step % self.every == 0:
            self.evaluate(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.done_at != trainer.global_step:
            self.evaluate(trainer, module)

    def evaluate(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Evaluate the current weights on all ranks."""
        assert isinstance(module, TrainingModule)
        module.share_statistics()
        with self.interruption.interruptible_evaluation(trainer):
            result = trainer.strategy.broadcast(self.run(module))
        self.done_at = trainer.global_step
        value = result.get(self.best_by)
        if result and trainer.is_global_zero and self.metrics is not None:
            self.metrics.write({"step": trainer.global_step, **result})
        if value is None or value > self.best:
            self.best, self.without_gain = self.best if value is None else value, 0
            if trainer.is_global_zero:
                module.save_weights(self.folder / "best.pth")
        else:
            self.without_gain += 1
            self._decay(trainer.global_step, module)
        self.checkpoints.save(trainer)
        self.draw()
        if self.patience is not None and self.without_gain >= self.patience:
            _LOG.info(
                "early stopping at step %d: %s has not improved from %.3f in %d evaluations",
                trainer.global_step,
                self.best_by,
                self.best,
                self.without_gain,
            )
            trainer.should_stop = True

    def _decay(self, step: int, module: TrainingModule) -> None:
        """Decay the learning rate for the plateau schedule; takes effect from the second next update."""
        solver = module.solver
        if solver.schedule == "plateau" and self.without_gain % solver.patience == 0:
            module.schedule.falls += 1
            factor = module.schedule(step)
            _LOG.info(
                "step %d: %s has not improved in %d evaluations, learning rate x %g",
                step,
                self.best_by,
                self.without_gain,
                factor,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "without_gain": self.without_gain, "done_at": self.done_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.without_gain = state_dict["best"], state_dict["without_gain"]
        self.done_at = state_dict["done_at"]
