"""Callbacks per optimiser step; Lightning's own are per micro-batch, several of which make a step.

The order of a run's callbacks after each step, which they rely on:

    Recovery       watches the loss; after a non-finite one restores the snapshot, before others save or evaluate
    StepLog        writes a row of metrics.csv and metrics.jsonl
    Checkpoints    writes last.pth every checkpoint_every steps
    ProgressLine   updates the progress bar, or logs a line
    Evaluation     evaluates every eval_every steps, keeps best.pth, saves last.pth again
    the user's     callbacks of train(callbacks=…)
    Interruption   ends the run after a signal, when all callbacks of the step have run

Interruption.begin runs before all of them at the start, so that a pending evaluation can be interrupted.
"""

from typing import Any

import lightning as L

from detection.training.loop import TrainingModule


class StepCallback(L.Callback):
    """Calls :meth:`on_step` once after each optimiser step; ``last_step`` is the previous step, or the run's first one."""

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
