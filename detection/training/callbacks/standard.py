"""What happens around the steps of a run, a detector's or a classifier's: its metrics files, the progress line, checkpoints,
evaluation."""

import contextlib
import csv
import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from detection.training.callbacks.base import StepCallback
from detection.training.callbacks.signals import Interruption
from detection.training.loop import TrainingModule
from detection.training.replay import NotFinite
from detection.utils.atomic_io import replacing, sync
from detection.utils.progress import clock, progress_bar

_LOG = logging.getLogger(__name__)
_SPEED = ("gradient_norm", "seconds", "data_seconds", "images_per_second", "memory_mb")
Row = dict[str, float | int | None]


class MetricsLog:
    """metrics.csv and metrics.jsonl of a run, and TensorBoard's files where it is installed. One line a call.

    Args:
        folder: of the run.
        start: the step that the run begins at; lines of a stopped run beyond it are taken out.
        losses: their names.
        metrics: names of what evaluations give.
    """

    def __init__(self, folder: Path, start: int, losses: Sequence[str], metrics: Sequence[str]) -> None:
        self.columns = ("step", "lr", "loss", *losses, *_SPEED, *metrics)
        self.jsonl, self.csv = folder / "metrics.jsonl", folder / "metrics.csv"
        rows = []
        if start:
            rows = [row for row in read_rows(self.jsonl) if row["step"] <= start]
        with replacing(self.jsonl) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with replacing(self.csv) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        self.board = _tensorboard(folder)

    def write(self, row: Row) -> None:
        """Appends what ``row`` has of the columns."""
        row = {k: v for k, v in row.items() if k in self.columns}
        with self.jsonl.open("a") as file:
            file.write(json.dumps(row) + "\n")
        with self.csv.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        if self.board is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self.board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Writes out what TensorBoard's writer still holds."""
        if self.board is not None:
            self.board.flush()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where it is not there. A last line without its end, of a run that was cut off or
    that is writing it now, is left out."""
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    return [json.loads(line) for line in lines]


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # an extra
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


class StepLog(StepCallback):
    """Writes the losses and speed of every ``every``-th step; the first of the callbacks.

    Seconds are means over the steps since the last line, without evaluations and checkpoints; data_seconds is the part
    spent waiting for pictures. Losses are those of this process's images of the step; gradient_norm is that of all its
    gradients together, before clipping.
    """

    def __init__(self, metrics: MetricsLog | None, every: int) -> None:
        self.metrics, self.every = metrics, every
        self.data = self.work = self.began = 0.0
        self.last_logged = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        super().on_train_start(trainer, module)
        self.last_logged = trainer.global_step
        module.step_done = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(module, TrainingModule)
        self.began = time.perf_counter()
        self.data += self.began - module.step_done

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.work += time.perf_counter() - self.began
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if self.metrics is None or (step % self.every and step != module.solver.max_iter):
            return
        losses = {name: float(value) for name, value in module.losses.items()}
        steps = step - self.last_logged
        seconds = (self.work + self.data) / steps
        row: Row = {
            "step": step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "loss": sum(losses.values()) if losses else None,
            **losses,
            **module.measured(),
            "gradient_norm": None if module.gradient_norm is None else float(module.gradient_norm),
            "seconds": round(seconds, 4),
            "data_seconds": round(self.data / steps, 4),
            "images_per_second": round(module.solver.batch_size / seconds, 3),
            "memory_mb": round(memory_mb(module.device)),
        }
        self.metrics.write(row)
        self.data, self.work, self.last_logged = 0.0, 0.0, step

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if self.metrics is not None:
            self.metrics.close()


def memory_mb(device: torch.device) -> float:
    """Peak memory so far: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class ProgressLine(StepCallback):
    """A bar with the time left; in a log file or pipe a line now and then."""

    def __init__(self, total: int, every: int) -> None:
        self.total, self.every = total, every
        self.bar = progress_bar()
        self.task = self.bar.add_task("training", total=total)
        self.began, self.first = 0.0, 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.began, self.first = time.perf_counter(), trainer.global_step
        if self.bar.console.is_terminal:
            self.bar.start()

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if self.bar.console.is_terminal:
            self.bar.update(self.task, completed=step)
        elif step % self.every == 0 or step == self.total:
            left = (time.perf_counter() - self.began) / max(step - self.first, 1) * (self.total - step)
            losses = "  ".join(f"{k.removeprefix('loss_')} {float(v):.3f}" for k, v in module.losses.items())
            norm = "" if module.gradient_norm is None else f"  gradient norm {float(module.gradient_norm):.3g}"
            _LOG.info("step %d/%d  %s%s  time left %s", step, self.total, losses, norm, clock(left))

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.bar.stop()


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


class Evaluation(StepCallback):
    """Evaluates every ``every`` steps and at the end; keeps the best weights; stops a run that no longer gains.

    Args:
        run: the evaluation, on every rank; the metrics of rank 0 count.
        best_by: the metric by which weights are the best; larger is better.
        every: steps; 0 only at the end.
        folder: of the run.
        metrics: where the numbers go.
        patience: evaluations without a better one before the run stops.
        checkpoints: saves again after each evaluation, so that a resumed run knows the best.
        interruption: ends an evaluation at once.
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
    ) -> None:
        self.run, self.best_by, self.every, self.patience = run, best_by, every, patience
        self.folder, self.metrics = folder, metrics
        self.checkpoints, self.interruption = checkpoints, interruption
        self.best, self.without_gain, self.done_at = -1.0, 0, -1

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_start(trainer, module)
        step = trainer.global_step
        if self.every and step and step % self.every == 0 and self.done_at != step:
            # the run stopped between this step's checkpoint and its evaluation
            self.evaluate(trainer, module)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if self.every and step % self.every == 0:
            self.evaluate(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.done_at != trainer.global_step:
            self.evaluate(trainer, module)

    def evaluate(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Evaluates the weights as they are."""
        assert isinstance(module, TrainingModule)
        module.share_statistics()
        with self.interruption.at_once(trainer):
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
            self._fall(trainer.global_step, module)
        self.checkpoints.save(trainer)
        if self.patience is not None and self.without_gain >= self.patience:
            _LOG.info(
                "stopping at step %d: no better %s than %.3f in %d evaluations",
                trainer.global_step,
                self.best_by,
                self.best,
                self.without_gain,
            )
            trainer.should_stop = True

    def _fall(self, step: int, module: TrainingModule) -> None:
        """Lowers the learning rate from the next update but one on, where the schedule waits for this."""
        solver = module.solver
        if solver.schedule == "plateau" and self.without_gain % solver.patience == 0:
            module.schedule.falls += 1
            factor = module.schedule(step)
            _LOG.info(
                "step %d: no better %s in %d evaluations, learning rate x %g",
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
