"""SIGTERM and Ctrl-C: the current step is finished, a checkpoint is saved, and the process exits with its own code."""

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
_AGREE_EVERY = 10  # steps after which processes agree whether one of them got a signal


class Interrupted(SystemExit):
    """Ends the process with 128 + the signal's number: 143 for SIGTERM, 130 for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Interruption(StepCallback):
    """The last of the callbacks: after each step, stops the run if a signal came. A second Ctrl-C ends at once.

    Several processes stop together at the same step, which they agree on every tenth.

    Args:
        checkpoints: saves the checkpoint (:class:`detection.training.callbacks.checkpoints.Checkpoints`).
    """

    def __init__(self, checkpoints: Any) -> None:
        self.checkpoints = checkpoints
        self.number: int | None = None
        self.alone, self.interruptible = True, False
        self.before: dict[int, Any] = {}
        self.begin = _Begin(self)

    def install(self, trainer: L.Trainer) -> None:
        """Handle signals from now on; one that Lightning got before counts too."""
        self.alone = trainer.world_size == 1
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        lightnings = trainer._signal_connector
        if lightnings.received_sigterm:
            self.number, lightnings.received_sigterm = signal.SIGTERM, False

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        stop = self.number is not None
        if not self.alone:
            # a signal after this reduction waits for the next one: all processes must get the same answer
            stop = step % _AGREE_EVERY == 0 and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and step < module.solver.max_iter:
            self.checkpoints.ensure(trainer)
            self._end(step)

    @contextlib.contextmanager
    def at_once(self, trainer: L.Trainer) -> Iterator[None]:
        """Within, an evaluation, a signal stops at once; a checkpoint is saved, and a resumed run evaluates again. Several
        processes finish the evaluation, since they synchronise there."""
        if not self.before or not self.alone:
            yield
            return
        try:
            self.interruptible = True
            if self.number is not None:
                raise Interrupted(self.number)
            yield
        except Interrupted:
            self.interruptible = False  # a second signal must not interrupt the saving
            self.checkpoints.ensure(trainer)
            self._end(trainer.global_step)
        finally:
            self.interruptible = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise Interrupted(number)
        self.number = number
        if self.interruptible:
            raise Interrupted(number)
        _LOG.info("%s: finishing the current step and saving a checkpoint", signal.Signals(number).name)

    def _end(self, step: int) -> None:
        number = self.number or signal.SIGTERM
        _LOG.warning(
            "stopped by %s at step %d; the checkpoint is %s, continue with --resume",
            signal.Signals(number).name,
            step,
            self.checkpoints.folder / "last.pth",
        )
        raise Interrupted(number)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


class _Begin(L.Callback):
    """The first of the callbacks: what others do at the start, such as a pending evaluation, can be interrupted too."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.interruption.install(trainer)
