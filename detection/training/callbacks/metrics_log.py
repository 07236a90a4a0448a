"""metrics.csv and metrics.jsonl of a run, and the callback that writes a line of them."""

import csv
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from detection.ops.device import is_gpu
from detection.training.callbacks.base import StepCallback
from detection.training.loop import TrainingModule
from detection.utils.atomic_io import replacing

_SPEED = ("gradient_norm", "seconds", "data_seconds", "images_per_second", "memory_mb")


Row = dict[str, float | int | None]


class MetricsLog:
    """metrics.csv and metrics.jsonl of a run. One line a call.

    Args:
        folder: of the run.
        start: the step that the run begins at; lines of a stopped run beyond it are removed.
        losses: their names.
        metrics: names of what evaluations give.
        loggers: of Lightning, guarded, which get the same numbers.
    """

    def __init__(
        self, folder: Path, start: int, losses: Sequence[str], metrics: Sequence[str], loggers: Sequence[Any] = ()
    ) -> None:
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
        self.loggers = list(loggers)

    def write(self, row: Row) -> None:
        """Append what ``row`` has of the columns."""
        row = {k: v for k, v in row.items() if k in self.columns}
        with self.jsonl.open("a") as file:
            file.write(json.dumps(row) + "\n")
        with self.csv.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        numbers = {name: float(value) for name, value in row.items() if name != "step" and value is not None}
        for logger in self.loggers:
            logger.log_metrics(numbers, step=row["step"])

    def close(self) -> None:
        """Have the loggers write out what they hold."""
        for logger in self.loggers:
            logger.save()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics.jsonl; none where it is not there. A last line without its end, of a run that was cut off
    or that is writing it now, is left out."""
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    return [json.loads(line) for line in lines]


class StepLog(StepCallback):
    """Writes the losses and speed of every ``every``-th step; the first of the callbacks.

    Seconds are means over the steps since the last line, without evaluations and checkpoints; data_seconds is the part
    spent waiting for images. Losses are those of this process's images of the step; gradient_norm is that of all its
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
            **module.extra_metrics(),
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
    """Return the peak memory so far in MiB: of the GPU, else of this process."""
    if is_gpu(device):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
