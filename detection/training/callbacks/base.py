"""Callbacks by optimiser steps: Lightning counts micro-batches, several of which may make a step.

The order of a run's callbacks after each step, which each relies on:

    Recovery       watches the loss; after a non-finite one restores the snapshot, before anybody saves or evaluates
    StepLog        writes a line of metrics.csv and metrics.jsonl
    Checkpoints    writes last.pth every checkpoint_every steps
    ProgressLine   moves the bar, or logs a line
    Evaluation     evaluates every eval_every steps, keeps best.pth, saves last.pth again
    the user's     callbacks of train(callbacks=…)
    Interruption   ends the run where a signal came: all that belongs to the step is done

At the start Interruption's first half comes before all of them, so that an evaluation that is owed can be interrupted.
"""

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
        """Run after a step."""
        raise NotImplementedError
