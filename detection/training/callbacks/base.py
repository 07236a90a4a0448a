"""Callbacks by optimiser steps: Lightning counts batches, several of which may make a step."""

from typing import Any

import lightning as L

from detection.training.loop import TrainingModule


class StepCallback(L.Callback):
    """Has :meth:`on_step` called once after each optimiser step; ``last_step`` is the one before, or where the run began."""

    last_step = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        if step != self.last_step:
            self.on_step(trainer, module, step)
            self.last_step = step

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """What is to be done after a step."""
        raise NotImplementedError
