"""metrics.csv and metrics.jsonl of a run, and the callback that writes their rows."""

import csv
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from detection.ops.device import is_gpu
from detection.training.callbacks.base import StepCallback
from detection.training.finite_check import check_loss_scale
from detection.training.loop import TrainingModule
from detection.utils.atomic_io import replacing, write_text

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_SPEED = ("gradient_norm", "seconds", "data_seconds", "images_per_second", "memory_mb")


Row = dict[str, float | int | None]


class MetricsLog:
    """metrics.csv and metrics.jsonl of a run; one row per call of :meth:`write`.

    Args:
        folder: of the run.
        start: the first step; rows of an interrupted run beyond it are removed.
        losses: names of the losses.
        metrics: names of the evaluation metrics.
        loggers: guarded Lightning loggers, which receive the same values.
    """

    def __init__(
        self, folder: Path, start: int, losses: Sequence[str], metrics: Sequence[str], loggers: Sequence[Any] = ()
    ) -> None:
        self.columns = ("step", "lr", "loss", *losses, *_SPEED, *metrics)
        self.jsonl, self.csv = folder / "metrics.jsonl", folder / "metrics.csv"
        rows = []
        if start:
            rows = [row for row in read_rows(self.jsonl) if row["step"] <= start]
        write_text(self.jsonl, "".join(json.dumps(row) + "\n" for row in rows))
        with replacing(self.csv) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        self.loggers = list(loggers)

    def write(self, row: Row) -> None:
        """Append a row; keys that are not columns are ignored."""
        row = {k: v for k, v in row.items() if k in self.columns}
        with self.jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        with self.csv.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        values = {name: float(value) for name, value in row.items() if name != "step" and value is not None}
        for logger in self.loggers:
            logger.log_metrics(values, step=row["step"])

    def close(self) -> None:
        """Flush the loggers."""
        for logger in self.loggers:
            logger.save()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; an empty list if it does not exist. An incomplete last line, of a run that was
    killed or is writing it, is ignored."""
    if not path.exists():
        return []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


class StepLog(StepCallback):
    """Logs losses and speed of every ``every``-th step.

    Seconds are averages per step since the last row, without evaluations and checkpoints; data_seconds is the time spent
    waiting for images. Losses are those of this process's images; gradient_norm is the total norm of all gradients, before
    clipping.
    """

    def __init__(self, metrics: MetricsLog | None, every: int) -> None:
        self.metrics, self.every = metrics, every
        self.data_seconds = self.step_seconds = self.batch_started = 0.0
        self.last_logged = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        super().on_train_start(trainer, module)
        self.last_logged = trainer.global_step
        module.step_done = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(module, TrainingModule)
        self.batch_started = time.perf_counter()
        self.data_seconds += self.batch_started - module.step_done

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.step_seconds += time.perf_counter() - self.batch_started
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if step % self.every == 0:
            check_loss_scale(trainer, step)
        if self.metrics is None or (step % self.every and step != module.solver.max_iter):
            return
        losses = {name: float(value) for name, value in module.losses.items()}
        steps = step - self.last_logged
        norm = math.nan if module.gradient_norm is None else float(module.gradient_norm)
        seconds = (self.step_seconds + self.data_seconds) / steps
        row: Row = {
            "step": step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "loss": sum(losses.values()) if losses else None,
            **losses,
            **module.extra_metrics(),
            "gradient_norm": norm if math.isfinite(norm) else None,  # that of a step which float16 skipped is infinite
            "seconds": round(seconds, 4),
            "data_seconds": round(self.data_seconds / steps, 4),
            "images_per_second": round(module.solver.batch_size / seconds, 3),
            "memory_mb": memory_mb(module.device),
        }
        self.metrics.write(row)
        self.data_seconds, self.step_seconds, self.last_logged = 0.0, 0.0, step

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if self.metrics is not None:
            self.metrics.close()


def memory_mb(device: torch.device) -> int | None:
    """Return the peak memory in MiB: of the GPU, or on a CPU of this process; None on Windows, where Python cannot tell."""
    if is_gpu(device):
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    if resource is None:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
