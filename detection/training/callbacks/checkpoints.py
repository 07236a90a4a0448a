"""Training checkpoints: last.pth, and previous.pth, the one before it."""

import contextlib
from pathlib import Path

import lightning as L

from detection.training.callbacks.base import StepCallback
from detection.training.loop import TrainingModule
from detection.training.replay import NonFiniteLossError
from detection.utils.atomic_io import sync


class Checkpoints(StepCallback):
    """Writes last.pth, the training checkpoint, every ``every`` steps and at the end of training, before the final
    evaluation. The one before it is kept as previous.pth."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every, self.saved = folder, max(every, 1), -1

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.ensure(trainer)

    def ensure(self, trainer: L.Trainer) -> None:
        """Save unless this step's checkpoint is already saved."""
        if self.saved != trainer.global_step:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write a temporary file, sync it to disk, and rename it.

        Raises:
            OSError: the file cannot be written; earlier checkpoints are kept.
            NonFiniteLossError: weights are non-finite; earlier checkpoints are kept.
        """
        module = trainer.lightning_module
        assert isinstance(module, TrainingModule)
        if not all(bool(p.isfinite().all()) for p in module.model.parameters()):
            raise NonFiniteLossError(
                f"the weights of step {trainer.global_step} are non-finite and are not saved; the last checkpoint is kept: "
                "resume from it with --resume and a lower solver.base_lr, or with solver.clip_norm"
            )
        last = self.folder / "last.pth"
        part = last.with_name(last.name + ".part")
        try:
            trainer.save_checkpoint(part)  # called on all ranks
            if trainer.is_global_zero:
                sync(part)
                if last.exists():
                    last.replace(self.folder / "previous.pth")
                part.replace(last)
                sync(self.folder)
            self.saved = trainer.global_step
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise OSError(
                f"the checkpoint of step {trainer.global_step} cannot be written to {last}: {error}; the previous one is "
                "kept: free some disk space, and continue with --resume"
            ) from error
