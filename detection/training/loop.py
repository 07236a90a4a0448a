"""A step of training, from a batch to the optimiser, as a LightningModule. What is trained is a subclass' business.

Lightning calls, for each micro-batch,   training_step -> backward -> on_after_backward
and after a step's last one              on_before_optimizer_step -> optimizer_step
"""

import logging
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from detection.config import SolverConfig
from detection.training.average import MovingAverage
from detection.training.finite_check import FiniteCheck, PendingCheck, grad_scaler, non_finite_names
from detection.training.optimizer import NORMS, make_optimizer, parameter_groups, slower
from detection.training.replay import NonFiniteLossError
from detection.training.schedule import make_schedule, scaled_lr
from detection.utils.distributed import is_distributed

_LOG = logging.getLogger(__name__)


class TrainingModule(L.LightningModule):
    """The training step.

    Args:
        model: what learns.
        solver: how.
        seed: of the samples that losses draw.
        output: folder for a step with a non-finite loss; None keeps none.
    """

    def __init__(self, model: nn.Module, solver: SolverConfig, seed: int, output: Path | None = None) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.solver, self.seed, self.output = solver, seed, output
        self.schedule = make_schedule(solver)
        self.average = MovingAverage(model, solver.ema) if solver.ema else None
        self.losses: dict[str, Tensor] = {}
        self.gradient_norm: Tensor | None = None  # of the last step, before clipping
        self.loss = 0.0  # of the last step, the mean over all processes and micro-batches
        self.skipped, self.skip_step = 0, False
        self.pending: PendingCheck | None = None
        self.statistics: list[tuple[Tensor, Tensor]] = []
        self.step_done = time.perf_counter()

    # ---- the step, in the order in which it happens ----

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Return the total loss of a micro-batch."""
        seed, micro_batches = self._sample_seed(batch_index), self.solver.accumulate
        first = batch_index % micro_batches == 0
        before = {} if first else self.losses
        self.losses = before
        if first:
            self.statistics = self._norm_statistics()
        losses = self.compute_losses(batch, torch.Generator(self.device).manual_seed(seed))
        total = torch.stack(list(losses.values())).sum()
        self.pending = PendingCheck(FiniteCheck(total.detach()), batch, seed, losses, before)
        self.losses = {name: before.get(name, 0) + value.detach() / micro_batches for name, value in losses.items()}
        return total

    def on_after_backward(self) -> None:
        """Check that the losses are finite. Runs after backward was launched, so the GPU stays busy during the sync."""
        pending, self.pending = self.pending, None
        assert pending is not None
        loss = pending.check.loss()
        self.loss = loss / self.solver.accumulate + (self.loss if pending.before else 0.0)
        if not math.isfinite(loss):
            self.losses = pending.before
            self._on_non_finite(pending)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Measure the norm of all gradients together, and clip them to ``solver.clip_norm``; without a sync."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        self.gradient_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.solver.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.solver.clip_norm, self.gradient_norm)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Update the weights and their average, or leave both as they are where the step is skipped."""

        def closure() -> Any:
            result = optimizer_closure()
            if self.skip_step:  # one of its micro-batches had a non-finite loss
                for parameter in self.model.parameters():
                    parameter.grad = None
                for buffer, value in self.statistics:
                    buffer.copy_(value)
                self.skip_step = False
            return result

        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return a loss as the run's gradient scaler raises it, where there is one: for a gradient that joins a step's."""
        scaler = grad_scaler(self._trainer)
        return loss if scaler is None else scaler.scale(loss)

    # ---- what a subclass defines ----

    def compute_losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of a micro-batch, which are summed; ``generator`` draws what they sample."""
        raise TypeError(f"{type(self).__name__} must define compute_losses(batch, generator)")

    def save_weights(self, path: Path) -> None:
        """Write the weights to evaluate and to use, with their metadata."""
        raise TypeError(f"{type(self).__name__} must define save_weights(path)")

    def extra_metrics(self) -> dict[str, float]:
        """Return what a line of the log says of the steps since the last one, besides losses and speed."""
        return {}

    def parts_to_compile(self) -> Iterable[nn.Module]:
        """Return the modules that torch.compile takes whole, without a graph break."""
        return (self.model,)

    def pretrained_modules(self) -> Iterable[nn.Module]:
        """Return the modules whose learning rate ``solver.trunk_lr_factor`` changes."""
        return ()

    def save_step(self, path: Path, batch: Any, seed: int, losses: dict[str, Tensor]) -> str:
        """Save a step with a non-finite loss for replay, where the kind of training can; return a note for the message."""
        return ""

    # ---- the rest ----

    @property
    def eval_model(self) -> nn.Module:
        """The weights to evaluate and to use: the average where there is one."""
        return self.model if self.average is None else self.average.module

    def share_statistics(self) -> None:
        """Give every rank rank 0's norm statistics, which each has measured on its own images: all ranks then evaluate the
        weights that rank 0 saves."""
        if is_distributed():
            for buffer in self.eval_model.buffers():
                dist.broadcast(buffer, 0)

    def _norm_statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Copy the running statistics of norms in training, to be restored where the step is skipped."""
        if self.solver.not_finite == "stop":
            return []
        return [
            (buffer, buffer.clone())
            for module in self.model.modules()
            if isinstance(module, NORMS) and module.training
            for buffer in module.buffers(recurse=False)
        ]

    def _on_non_finite(self, pending: PendingCheck) -> None:
        """Skip the step, or end the run. "recover" skips it too; callbacks/recovery.py does the rest.

        Raises:
            NonFiniteLossError: ``solver.not_finite`` is "stop".
        """
        step, where = self.trainer.global_step + 1, non_finite_names(pending.losses)
        action = self.solver.not_finite
        note = "" if action == "skip" else self._save_step(pending)
        if action == "stop":
            raise NonFiniteLossError(
                f"step {step}: non-finite loss ({where}){note}. --resume continues from the last checkpoint; a lower "
                "solver.base_lr, solver.clip_norm or a longer solver.warmup may help, and solver.not_finite=skip skips such "
                "steps"
            )
        self.skipped, self.skip_step = self.skipped + (not self.skip_step), True  # once for all micro-batches of a step
        skipped = f"; the step is skipped ({self.skipped} so far)" if action == "skip" else ""
        _LOG.warning("step %d: non-finite loss (%s)%s%s", step, where, note, skipped)

    def _save_step(self, pending: PendingCheck) -> str:
        if self.output is None:
            return ""
        rank = self.trainer.global_rank
        path = self.output / f"not_finite{f'-{rank}' if rank else ''}.pth"
        try:
            return self.save_step(path, pending.batch, pending.seed, pending.losses)
        except OSError as error:
            return f"; the step cannot be saved: {error}"

    def _sample_seed(self, batch_index: int) -> int:
        """Return the seed of this step's, micro-batch's and rank's samples; a resumed run draws the same."""
        micro_batch = batch_index % self.solver.accumulate
        key = (self.seed, self.trainer.global_step, micro_batch, self.trainer.global_rank)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

    def on_train_batch_end(self, *args: Any) -> None:
        self.step_done = time.perf_counter()  # after all callbacks: what follows is waiting for images

    def configure_optimizers(self) -> Any:
        solver, lr = self.solver, scaled_lr(self.solver)
        groups = parameter_groups(self.model, solver.weight_decay, solver.norm_decay)
        if solver.trunk_lr_factor != 1:
            groups = slower(groups, self.pretrained_modules(), lr * solver.trunk_lr_factor)
        optimizer = make_optimizer(solver, groups, lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let this run's length win over the checkpoint's, so that a run can be lengthened."""
        for state in checkpoint["lr_schedulers"]:
            for attributes in state["lr_lambdas"]:
                attributes |= self.schedule.length()
