"""Watch the loss: warn when it rises, and recover from a non-finite loss (solver.not_finite=recover)."""

import json
import logging
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils._pytree import tree_map_only

from detection.training.callbacks.base import StepCallback
from detection.training.loop import TrainingModule
from detection.training.replay import NonFiniteLossError
from detection.utils.atomic_io import write_json

_LOG = logging.getLogger(__name__)
WINDOW = 50  # steps of the running median, and between two snapshots
RISING = 10.0  # a loss above this multiple of the running median is rising
_HEALTHY = 2.0  # no snapshots while the running median is above this multiple of its minimum
LIMIT = 3  # recoveries per run; the next non-finite loss ends it
_KEY = "recovery"  # entry of the snapshot in a training checkpoint


class LossWatch:
    """The running median of the loss over the last ``WINDOW`` steps.

    Attributes:
        losses: of those steps, oldest first, without non-finite ones.
        lowest: the lowest running median so far; None before the first full window.
        rising: whether the last loss exceeded ``RISING`` times the median of the steps before it.
    """

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.lowest: float | None = None
        self.rising = False

    @property
    def median(self) -> float | None:
        """The running median; None before the first full window."""
        return statistics.median(self.losses) if len(self.losses) == WINDOW else None

    def add(self, loss: float) -> bool:
        """Add a finite loss. Return whether it starts to rise: True only once per rise."""
        before, was_rising = self.median, self.rising
        self.rising = before is not None and loss > RISING * before
        self.losses.append(loss)
        after = self.median
        if after is not None:
            self.lowest = after if self.lowest is None else min(self.lowest, after)
        return self.rising and not was_rising

    def healthy(self) -> bool:
        """Return whether the running median is near its minimum, so that a snapshot is worthwhile."""
        median = self.median
        return not self.rising and (median is None or self.lowest is None or median <= _HEALTHY * self.lowest)

    def restart(self) -> None:
        """Clear the losses, which belong to discarded weights; keep the lowest median."""
        self.losses.clear()
        self.rising = False


class Recovery(StepCallback):
    """Watches the loss after each step, before other callbacks save or evaluate the weights.

    With ``solver.not_finite=recover`` a snapshot of the training state (weights, statistics, optimiser, EMA) is taken in
    host memory every ``WINDOW`` steps while the loss is healthy. After a non-finite loss, whose step is skipped, the
    snapshot is restored with half the learning rate; training continues with the next batch. After ``LIMIT`` recoveries
    the next one ends the run. The snapshot is saved in training checkpoints, so that a resumed run recovers the same way.

    Args:
        run_json: the run's provenance file, whose last entry receives the events at the end; None for no file.
    """

    def __init__(self, run_json: Path | None) -> None:
        self.run_json = run_json
        self.watch, self.count = LossWatch(), 0
        self.skipped = 0  # skipped steps of the module that were handled
        self.events: list[dict[str, Any]] = []
        self.snapshot: dict[str, Any] | None = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        super().on_train_start(trainer, module)
        if module.solver.not_finite == "recover" and self.snapshot is None:
            self._take_snapshot(trainer, module, trainer.global_step)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if module.skipped != self.skipped:
            self.skipped = module.skipped
            if module.solver.not_finite == "recover":
                self._recover(trainer, module, step)
            return
        median = self.watch.median
        if self.watch.add(module.loss):
            text = (
                f"step {step}: the loss is {module.loss:.3g}, {module.loss / (median or 1):.0f} times its running median "
                f"over {WINDOW} steps ({median:.3g}); gradient norm {_gradient_norm(module):.3g}. If it stays high, lower "
                "solver.base_lr or set solver.clip_norm"
            )
            self._warn(step, "rising loss", text)
        if module.solver.not_finite == "recover" and step % WINDOW == 0 and self.watch.healthy():
            self._take_snapshot(trainer, module, step)

    def _take_snapshot(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Copy the training state to host memory, unless a weight is non-finite."""
        if not all(bool(p.isfinite().all()) for p in module.model.parameters()):
            return
        state = {"weights": module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()["state"]}
        copied = tree_map_only(Tensor, lambda x: x.detach().to("cpu", copy=True), state)
        self.snapshot = {"step": step, **copied}

    def _recover(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        self.count += 1
        assert self.snapshot is not None  # taken before the first step
        if self.count > LIMIT:
            raise NonFiniteLossError(
                f"step {step}: non-finite loss again after {LIMIT} recoveries, each at half the learning rate. Inspect the "
                "step with resdet replay and the dataset with resdet check-dataset; then start a new run with a lower "
                "solver.base_lr, a longer solver.warmup or solver.precision=float32"
            )
        optimizer = trainer.optimizers[0]
        module.load_state_dict(self.snapshot["weights"])
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": self.snapshot["optimizer"], "param_groups": groups})
        module.schedule.halvings += 1
        for group in optimizer.param_groups:  # the scheduler applies the halving only after the next step
            group["lr"] *= 0.5
        self.watch.restart()
        text = (
            f"step {step}: restored the weights of step {self.snapshot['step']}, with half the learning rate "
            f"({optimizer.param_groups[0]['lr']:.3g}); recovery {self.count} of at most {LIMIT}"
        )
        self._warn(step, "recovered from a non-finite loss", text)

    def _warn(self, step: int, kind: str, text: str) -> None:
        _LOG.warning("%s", text)
        self.events.append({"step": step, "kind": kind, "text": text})

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self.events:
            return
        _LOG.warning("in this run: %s", "; ".join(f"{e['kind']} at step {e['step']}" for e in self.events))
        if self.run_json is not None and trainer.is_global_zero:
            try:
                starts = json.loads(self.run_json.read_text(encoding="utf-8"))
                starts[-1]["events"] = self.events
                write_json(self.run_json, starts)
            except (OSError, ValueError, IndexError) as error:
                _LOG.warning("the events could not be written to %s: %s", self.run_json, error)

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": list(self.watch.losses),
            "lowest": self.watch.lowest,
            "rising": self.watch.rising,
            "count": self.count,
            "events": self.events,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.watch.losses.extend(state_dict["losses"])
        self.watch.lowest, self.watch.rising = state_dict["lowest"], state_dict["rising"]
        self.count, self.events = state_dict["count"], state_dict["events"]

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.snapshot is not None:
            checkpoint[_KEY] = self.snapshot

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.snapshot = checkpoint.get(_KEY)


def _gradient_norm(module: TrainingModule) -> float:
    """Return the gradient norm of the last step, before clipping."""
    return float("nan") if module.gradient_norm is None else float(module.gradient_norm)
