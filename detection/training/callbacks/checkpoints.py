"""last.pth, the whole training state, and the one before it."""

import contextlib
from pathlib import Path

import lightning as L

from detection.training.callbacks.base import StepCallback
from detection.training.loop import TrainingModule
from detection.training.replay import NotFinite
from detection.utils.atomic_io import sync


class Checkpoints(StepCallback):
    """last.pth, the whole training state, every ``every`` steps and at the end of training, before the evaluation there.
    The one before it stays, as previous.pth."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every, self.saved = folder, max(every, 1), -1

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.ensure(trainer)

    def ensure(self, trainer: L.Trainer) -> None:
        """Saves unless this step's state is there."""
        if self.saved != trainer.global_step:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Writes beside, waits for the disk, and renames.

        Raises:
            OSError, NotFinite: it cannot be written, or is worth nothing; what there was stays.
        """
        module = trainer.lightning_module
        assert isinstance(module, TrainingModule)
        if not all(bool(p.isfinite().all()) for p in module.model.parameters()):
            raise NotFinite(
                f"the weights of step {trainer.global_step} are no numbers, and are not saved; the state before them stays: "
                "go on from there with --resume and a lower solver.base_lr, or with solver.clip_norm"
            )
        last = self.folder / "last.pth"
        part = last.with_name(last.name + ".part")
        try:
            trainer.save_checkpoint(part)  # all processes are in this
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
                f"the state of step {trainer.global_step} cannot be written to {last}: {error}; the state before it is "
                "still there: make room, and go on with --resume"
            ) from error
