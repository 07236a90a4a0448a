"""Progress of a run: a bar in a terminal, else a log line every few steps."""

import logging
import time

import lightning as L

from detection.training.callbacks.base import StepCallback
from detection.training.loop import TrainingModule
from detection.utils.progress import clock, progress_bar

_LOG = logging.getLogger(__name__)


class ProgressLine(StepCallback):
    """Shows a progress bar with the remaining time; without a terminal, logs a line every ``every`` steps."""

    def __init__(self, total: int, every: int) -> None:
        self.total, self.every = total, every
        self.bar = progress_bar()
        self.task = self.bar.add_task("training", total=total)
        self.started, self.first_step = 0.0, 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.started, self.first_step = time.perf_counter(), trainer.global_step
        if self.bar.console.is_terminal:
            self.bar.start()

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if self.bar.console.is_terminal:
            self.bar.update(self.task, completed=step)
        elif step % self.every == 0 or step == self.total:
            remaining = (time.perf_counter() - self.started) / max(step - self.first_step, 1) * (self.total - step)
            losses = "  ".join(f"{k.removeprefix('loss_')} {float(v):.3f}" for k, v in module.losses.items())
            norm = "" if module.gradient_norm is None else f"  gradient norm {float(module.gradient_norm):.3g}"
            _LOG.info("step %d/%d  %s%s  time left %s", step, self.total, losses, norm, clock(remaining))

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.bar.stop()
