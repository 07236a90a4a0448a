"""SIGTERM and Ctrl-C: finish the current step, save a checkpoint, and exit with 128 + the signal's number."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import lightning as L

from detection.training.callbacks.base import StepCallback
from detection.training.loop import TrainingModule

_LOG = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_REDUCE_EVERY = 10  # steps between reductions of whether any process received a signal


class Interrupted(SystemExit):
    """Exit with code 128 + the signal's number: 143 for SIGTERM, 130 for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Interruption(StepCallback):
    """Stops the run after a step if a signal was received; must be the last callback. A second Ctrl-C exits immediately.

    Distributed processes stop at the same step: they reduce the decision every tenth step.

    Args:
        checkpoints: saves the checkpoint (:class:`detection.training.callbacks.checkpoints.Checkpoints`).
    """

    def __init__(self, checkpoints: Any) -> None:
        self.checkpoints = checkpoints
        self.number: int | None = None
        self.single_process, self.interruptible = True, False
        self.previous_handlers: dict[int, Any] = {}
        self.begin = _Begin(self)

    def install(self, trainer: L.Trainer) -> None:
        """Install the signal handlers; take over a SIGTERM that Lightning received before."""
        self.single_process = trainer.world_size == 1
        if threading.current_thread() is threading.main_thread():
            self.previous_handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        connector = trainer._signal_connector
        if connector.received_sigterm:
            self.number, connector.received_sigterm = signal.SIGTERM, False

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        stop = self.number is not None
        if not self.single_process:
            # a signal after this reduction takes effect at the next one: all processes must decide the same
            stop = step % _REDUCE_EVERY == 0 and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and step < module.solver.max_iter:
            self.checkpoints.ensure(trainer)
            self._end(step)

    @contextlib.contextmanager
    def interruptible_evaluation(self, trainer: L.Trainer) -> Iterator[None]:
        """Let a signal interrupt an evaluation inside the context: save a checkpoint, from which a resumed run evaluates
        again, and exit. Distributed processes finish the evaluation, since they synchronise in it."""
        if not self.previous_handlers or not self.single_process:
            yield
            return
        try:
            self.interruptible = True
            if self.number is not None:
                raise Interrupted(self.number)
            yield
        except Interrupted:
            self.interruptible = False  # a second signal must not interrupt saving
            self.checkpoints.ensure(trainer)
            self._end(trainer.global_step)
        finally:
            self.interruptible = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise Interrupted(number)
        self.number = number
        if self.interruptible:
            raise Interrupted(number)
        _LOG.info("%s: finishing the current step and saving a checkpoint", signal.Signals(number).name)

    def _end(self, step: int) -> None:
        number = self.number or signal.SIGTERM
        _LOG.warning(
            "stopped by %s at step %d; checkpoint saved to %s, continue with --resume",
            signal.Signals(number).name,
            step,
            self.checkpoints.folder / "last.pth",
        )
        raise Interrupted(number)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self.previous_handlers.items():
            if signal.getsignal(number) == self._handle:  # Lightning restores those of its own, before teardown
                signal.signal(number, handler)
        self.previous_handlers = {}


class _Begin(L.Callback):
    """Installs the signal handlers; must be the first callback, so that a pending evaluation can be interrupted."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.interruption.install(trainer)
