"""Training as a LightningModule: the step, the optimiser, the weights' average; then a detector's."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detection.checkpoint.detector import CARD, Classes, backbone_parts, card, save_detector
from detection.config import Config, SolverConfig
from detection.data.loader import Batch, float_images, to_device
from detection.modeling.faster_rcnn import FasterRCNN
from detection.training.finite_check import FiniteCheck, PendingCheck
from detection.training.optimizer import NORMS, parameter_groups, slower
from detection.training.replay import NotFinite, save_step
from detection.training.schedule import make_schedule, scaled_lr
from detection.utils.precision import use_bf16

_LOG = logging.getLogger(__name__)
# means over the sampled regions, whose number differs from part to part
_OVER_REGIONS = ("loss_classifier", "loss_box")


class TrainingModule(L.LightningModule):
    """What happens in a step of training, whatever is trained.

    Args:
        model: what learns.
        solver: how.
        seed: of the samples that losses draw.
    """

    def __init__(self, model: nn.Module, solver: SolverConfig, seed: int) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.solver, self.seed = solver, seed
        self.schedule = make_schedule(solver)
        decay = solver.ema
        self.average = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None
        )
        if self.average is not None:
            self.average.requires_grad_(False)  # DDP would wait for its gradients
        self.losses: dict[str, Tensor] = {}
        self.gradient_norm: Tensor | None = None  # of the last step, before clipping
        self.loss = 0.0  # of the last step, the mean over all processes and parts
        self.skipped, self.leave_out = 0, False
        self.pending: PendingCheck | None = None
        self.statistics: list[tuple[Tensor, Tensor]] = []
        self.output: Path | None = None  # where a step that went wrong is kept
        self.step_done = time.perf_counter()

    def compute_losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of a batch, which are summed; ``generator`` draws what they sample."""
        raise TypeError(f"{type(self).__name__} must define compute_losses(batch, generator)")

    def save_weights(self, path: Path) -> None:
        """The weights to keep, with what a file says of itself."""
        raise TypeError(f"{type(self).__name__} must define save_weights(path)")

    def measured(self) -> dict[str, float]:
        """What a line of the log says of the steps since the last one, besides their losses and speed."""
        return {}

    def parts_to_compile(self) -> Iterable[nn.Module]:
        """Modules that torch.compile takes whole, without a graph break."""
        return (self.model,)

    def pretrained_modules(self) -> Iterable[nn.Module]:
        """Modules whose learning rate ``solver.trunk_lr_factor`` changes."""
        return ()

    @property
    def kept(self) -> nn.Module:
        """The weights to evaluate and to keep: the average where there is one."""
        return self.model if self.average is None else self.average.module

    def share_statistics(self) -> None:
        """Give every rank rank 0's norm statistics, which each has measured on its own images: all ranks then evaluate the
        weights that rank 0 saves."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            for buffer in self.kept.buffers():
                dist.broadcast(buffer, 0)

    def save_step(self, path: Path, batch: Any, seed: int, losses: dict[str, Tensor]) -> str:
        """Keeps a step whose losses are not finite, where the kind of training can; says what it was of."""
        return ""

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        seed, parts = self._seed(batch_index), self.solver.accumulate
        before = self.losses if batch_index % parts else {}
        self.losses = before
        if not batch_index % parts:
            self.statistics = self._statistics()
        losses = self.compute_losses(batch, torch.Generator(self.device).manual_seed(seed))
        total = torch.stack(list(losses.values())).sum()
        self.pending = PendingCheck(FiniteCheck(total.detach()), batch, seed, losses, before)
        self.losses = {name: before.get(name, 0) + value.detach() / parts for name, value in losses.items()}
        return total

    def on_after_backward(self) -> None:
        """Looks whether the losses were numbers: now, so that a GPU has its way back to do while it is asked."""
        step, self.pending = self.pending, None
        assert step is not None
        loss = step.verdict.loss()
        self.loss = loss / self.solver.accumulate + (self.loss if step.before else 0.0)
        if math.isfinite(loss):
            return
        self.losses = step.before
        self._not_finite(step.batch, step.seed, step.losses)

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """What norms in training have measured, to be put back where the step is skipped."""
        if self.solver.not_finite == "stop":
            return []
        return [
            (buffer, buffer.clone())
            for module in self.model.modules()
            if isinstance(module, NORMS) and module.training
            for buffer in module.buffers(recurse=False)
        ]

    def _not_finite(self, batch: Any, seed: int, losses: dict[str, Tensor]) -> None:
        """Skip the step, or end the run. "recover" skips it too; callbacks/recovery.py does the rest.

        Raises:
            NotFinite: ``solver.not_finite`` is "stop".
        """
        wrong = ", ".join(f"{name} {float(value.detach()):g}" for name, value in losses.items() if not value.isfinite())
        step = self.trainer.global_step + 1
        where = wrong or "finite in this process, not in another"
        if self.solver.not_finite == "skip":
            self.skipped, self.leave_out = self.skipped + (not self.leave_out), True  # once for all parts of a step
            _LOG.warning("step %d: %s; it changes nothing (%d such so far)", step, where, self.skipped)
            return
        what = self._kept_step(batch, seed, losses)
        if self.solver.not_finite == "recover":
            self.skipped, self.leave_out = self.skipped + (not self.leave_out), True
            _LOG.warning("step %d: non-finite loss (%s)%s", step, where, what)
            return
        raise NotFinite(
            f"step {step}: {where}{what}. --resume goes on from the last state that was written; a lower solver.base_lr, "
            "solver.clip_norm or a longer solver.warmup may help, and solver.not_finite=skip leaves such steps out"
        )

    def _kept_step(self, batch: Any, seed: int, losses: dict[str, Tensor]) -> str:
        """Saves the step for replay, where there is a folder for it; says where."""
        if self.output is None:
            return ""
        rank = self.trainer.global_rank
        path = self.output / f"not_finite{f'-{rank}' if rank else ''}.pth"
        try:
            return self.save_step(path, batch, seed, losses)
        except OSError as error:
            return f"; the step cannot be kept: {error}"

    def _seed(self, batch_index: int) -> int:
        """Of the samples of this step, part and rank; a resumed run draws the same."""
        part = batch_index % self.solver.accumulate
        key = (self.seed, self.trainer.global_step, part, self.trainer.global_rank)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

    def on_train_batch_end(self, *args: Any) -> None:
        self.step_done = time.perf_counter()  # after all callbacks: what follows is waiting for pictures

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        def closure() -> Any:
            result = optimizer_closure()
            if self.leave_out:  # one of the step's parts was no number
                for parameter in self.model.parameters():
                    parameter.grad = None
                for buffer, value in self.statistics:
                    buffer.copy_(value)
                self.leave_out = False
            return result

        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Measures the norm of all gradients together, and clips them to ``solver.clip_norm``; without a sync."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        self.gradient_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.solver.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.solver.clip_norm, self.gradient_norm)

    def configure_optimizers(self) -> Any:
        solver = self.solver
        lr = scaled_lr(solver)
        groups = parameter_groups(self.model, solver.weight_decay, solver.norm_decay)
        if solver.trunk_lr_factor != 1:
            groups = slower(groups, self.pretrained_modules(), lr * solver.trunk_lr_factor)
        optimizer: torch.optim.Optimizer
        if solver.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr, momentum=solver.momentum, fused=True)
        else:
            optimizer = torch.optim.AdamW(groups, lr, fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class DetectionModule(TrainingModule):
    """A detector's training.

    Args:
        model: the detector.
        config: the experiment; the solver's part is read here.
        classes: go into every checkpoint.
    """

    def __init__(self, model: FasterRCNN, config: Config, classes: Classes) -> None:
        super().__init__(model, config.solver, config.seed)
        self.config, self.classes = config, classes
        self.file_of: Callable[[int], str] = str
        self.parts: list[_Part] = []

    @property
    def detector(self) -> FasterRCNN:
        """The weights to evaluate and to keep."""
        return cast(FasterRCNN, self.kept)

    def parts_to_compile(self) -> Iterable[nn.Module]:
        model = cast(FasterRCNN, self.model)
        return model.trunk, model.rpn, model.roi_head.head

    def pretrained_modules(self) -> Iterable[nn.Module]:
        trunk, *head = backbone_parts(cast(FasterRCNN, self.model))
        # conv5_x with frozen norms stands on pretrained weights; with norms that learn it may begin at random
        return (trunk, *(part for part in head if not any(isinstance(m, NORMS) for m in part.modules())))

    def compute_losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.model(float_images(batch), batch.targets, generator=generator)
        if self.solver.accumulate == 1:
            return losses
        sampled = cast(FasterRCNN, self.model).roi_head.sampled
        assert sampled is not None
        self.parts.append(_Part(batch, generator.initial_seed(), sampled))
        if len(self.parts) < self.solver.accumulate:
            return losses
        parts, self.parts = self.parts, []
        counts = torch.stack([part.sampled for part in parts]).double()
        weights = (counts / counts.mean()).tolist()
        # the gradients of a step whose earlier part was no number are thrown away
        if self.leave_out or all(weight == 1 for weight in weights):
            return losses
        del losses  # with its activations: one part's are held at a time
        return self._weighed(parts, weights)

    def _weighed(self, parts: list["_Part"], weights: list[float]) -> dict[str, Tensor]:
        """The last part's losses, as a share of the step's: over all parts' regions, not over its own.

        Parts have brought different numbers of regions (small pictures with few proposals), and their weights are known
        only now: each part is gone through again, the earlier ones to correct their gradients.
        """

        def again(part: "_Part") -> dict[str, Tensor]:
            generator = torch.Generator(self.device).manual_seed(part.seed)
            with nothing_measured(self.model):
                losses: dict[str, Tensor] = self.model(
                    float_images(part.batch), part.batch.targets, generator=generator
                )
            return losses

        for part, weight in zip(parts[:-1], weights[:-1], strict=True):
            if weight == 1:
                continue
            losses = again(part)
            missing = {name: losses[name] * ((weight - 1) / len(parts)) for name in _OVER_REGIONS}
            # within DDP's forward no hook waits for gradients: these join the sums that its backward sends
            torch.stack(list(missing.values())).sum().backward()  # type: ignore[no-untyped-call]
            for name, value in missing.items():
                self.losses[name] = self.losses[name] + value.detach()
        losses = again(parts[-1])
        return {name: value * weights[-1] if name in _OVER_REGIONS else value for name, value in losses.items()}

    def save_step(self, path: Path, batch: Batch, seed: int, losses: dict[str, Tensor]) -> str:
        files = [self.file_of(i) for i in batch.index]
        step = {
            "step": self.trainer.global_step + 1,
            "seed": seed,
            "precision": "bf16" if use_bf16(self.solver.precision) else "float32",
            "files": files,
            "images": batch.images,
            "targets": batch.targets,
        }
        save_step(path, self.model, self.config, self.classes, step, losses)
        return f"; pictures {', '.join(files)}; the step is kept: python tools/replay.py {path}"

    def save_weights(self, path: Path) -> None:
        save_detector(path, self.detector, self.config, self.classes)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CARD] = card(self.config, self.classes)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return to_device(batch, device)


@dataclass(frozen=True)
class _Part:
    """One of the parts that a step's images are computed in: its images, the seed of its samples, how many regions."""

    batch: Batch
    seed: int
    sampled: Tensor


@contextlib.contextmanager
def nothing_measured(model: nn.Module) -> Iterator[None]:
    """Batch norms in training use a batch's statistics and leave their own as they are."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
