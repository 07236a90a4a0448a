"""Lightning's Trainer with a run's callbacks, for detectors and classifiers."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from detection.config import SolverConfig
from detection.ops.device import default_device, use_gpu
from detection.training.callbacks.checkpoints import Checkpoints
from detection.training.callbacks.metrics_log import MetricsLog, StepLog
from detection.training.callbacks.progress_line import ProgressLine
from detection.training.callbacks.recovery import Recovery
from detection.training.callbacks.signals import Interruption
from detection.training.loop import TrainingModule
from detection.training.schedule import iterations, scaled_lr, unreached
from detection.utils.distributed import local_rank, local_world_size, world_size
from detection.utils.precision import autocast_dtype, precision_name

_LOG = logging.getLogger(__name__)
# in torch's messages, when a DataLoader worker died or hangs
_WORKER_ERRORS = ("is killed by signal", "exited unexpectedly", "timed out after")


class LossScaling(MixedPrecision):
    """float16 autocast with a gradient scaler, whose state is part of a training checkpoint.

    The loss is multiplied by the scale, so that small gradients do not underflow float16. A step whose gradients overflow is
    left out by the optimiser and halves the scale; it counts as a step, and is no non-finite loss. Lightning's plugin
    leaves the scale in the gradients of a fused optimiser; here they are unscaled before their norm is taken.

    Args:
        device: "cuda", "mps" or "cpu".
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))

    def optimizer_step(  # type: ignore[override]  # as Lightning's plugin
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        closure_result = closure()
        assert self.scaler is not None
        has_gradients = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        if has_gradients:
            self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        if has_gradients:
            self.scaler.step(optimizer, **kwargs)
            self.scaler.update()
        else:  # a step with a non-finite loss says nothing of the scale
            optimizer.step(**kwargs)
        return closure_result


def run_device() -> torch.device:
    """Return the device of this process of a run, its GPU set as the current one."""
    device = default_device(local_rank(), world_size())
    use_gpu(device)
    return device


def describe_solver(solver: SolverConfig) -> str:
    """Return a description of batch size, steps, precision and learning rate, for the log."""
    dtype = autocast_dtype(solver.precision, default_device(local_rank(), world_size()))
    return (
        f"{solver.batch_size} images per step ({world_size()} processes x {solver.accumulate} micro-batches), "
        f"{solver.max_iter} steps in {precision_name(dtype)}; learning rate "
        f"{scaled_lr(solver):g} (base_lr {solver.base_lr:g} for {solver.reference_batch} images, "
        f"{solver.lr_scaling} scaling)"
    )


def step_callbacks(
    solver: SolverConfig, metrics: MetricsLog | None, output: Path
) -> tuple[Checkpoints, Interruption, list[L.Callback]]:
    """Return the callbacks of every run in order, except the interruption, which must be the last; ``metrics`` is None on
    other ranks than 0."""
    checkpoints = Checkpoints(output, iterations(solver.checkpoint_every, solver.max_iter))
    interruption = Interruption(checkpoints)
    recovery = Recovery(output / "run.json")  # first, so that the others see the restored weights
    callbacks: list[L.Callback] = [interruption.begin, recovery, StepLog(metrics, solver.log_every), checkpoints]
    if metrics is not None:
        callbacks.append(ProgressLine(solver.max_iter, solver.log_every))
    return checkpoints, interruption, callbacks


def fit(
    module: TrainingModule,
    loader: Any,
    callbacks: list[L.Callback],
    checkpoint: Path | None,
    loggers: Sequence[Any] = (),
) -> L.Trainer:
    """Train, from a checkpoint if given, and return the trainer.

    Raises:
        OSError: a DataLoader worker died or timed out.
    """
    if module.solver.compile:
        for part in module.parts_to_compile():
            part.compile(dynamic=True)  # image sizes and numbers of regions vary
    for text in unreached(module.solver):
        _LOG.warning("%s", text)
    trainer = make_trainer(module.solver, callbacks, loggers)
    with warnings.catch_warnings():
        # advice on workers and loggers, which the configuration sets
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        except RuntimeError as error:
            if "DataLoader" not in str(error) or not any(sign in str(error) for sign in _WORKER_ERRORS):
                raise
            raise OSError(
                f"data loading failed at step {trainer.global_step + 1}: {str(error).partition(chr(10))[0]} If a DataLoader "
                "worker was killed, memory probably ran out: lower data.workers. If it timed out, the disk is slow or "
                "data.timeout too short. --resume continues from the last checkpoint"
            ) from error
    return trainer


def make_trainer(solver: SolverConfig, callbacks: list[L.Callback], loggers: Sequence[Any] = ()) -> L.Trainer:
    """Return Lightning's Trainer; distributed if torchrun started this process."""
    world, local = world_size(), local_world_size()
    device = default_device(local_rank(), world)
    dtype = autocast_dtype(solver.precision, device)
    scaling = [LossScaling(device.type)] if dtype == torch.float16 else None
    return L.Trainer(
        accelerator=device.type,
        devices=local,
        num_nodes=max(world // local, 1),
        strategy="ddp" if world > 1 else "auto",
        precision=None if scaling else "bf16-mixed" if dtype == torch.bfloat16 else "32-true",
        plugins=scaling,  # type: ignore[arg-type]  # lists are invariant
        max_steps=solver.max_iter,
        log_every_n_steps=solver.log_every,  # for metrics that the user's callbacks log
        max_epochs=-1,
        accumulate_grad_batches=solver.accumulate,
        callbacks=callbacks,
        logger=list(loggers) or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
