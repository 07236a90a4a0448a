"""SIGTERM and Ctrl-C: the step under way is finished, the state is saved, and the process ends with a code of its own."""

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
_ASKED_EVERY = 10  # steps after which processes tell each other whether they were asked to stop


class Interrupted(SystemExit):
    """Ends the process with 128 + the signal's number: 143 for SIGTERM, 130 for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Interruption(StepCallback):
    """The last of the callbacks: looks after each step whether a signal came. A second Ctrl-C ends at once.

    Several processes stop together at the same step, which they agree upon every tenth.

    Args:
        checkpoints: saves the state (:class:`detection.training.callbacks.checkpoints.Checkpoints`).
    """

    def __init__(self, checkpoints: Any) -> None:
        self.checkpoints = checkpoints
        self.number: int | None = None
        self.alone, self.interruptible = True, False
        self.before: dict[int, Any] = {}
        self.begin = _Begin(self)

    def install(self, trainer: L.Trainer) -> None:
        """From now on signals are noted; one that Lightning noted before counts too."""
        self.alone = trainer.world_size == 1
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        lightnings = trainer._signal_connector
        if lightnings.received_sigterm:
            self.number, lightnings.received_sigterm = signal.SIGTERM, False

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        stop = self.number is not None
        if not self.alone:
            # a signal that comes after this question waits for the next one: all must have the same answer
            stop = step % _ASKED_EVERY == 0 and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and step < module.solver.max_iter:
            self.checkpoints.ensure(trainer)
            self._end(step)

    @contextlib.contextmanager
    def at_once(self, trainer: L.Trainer) -> Iterator[None]:
        """Within an evaluation no step's end is waited for; the state is saved, and a resumed run evaluates again. Several
        processes finish it, since they answer each other there."""
        if not self.before or not self.alone:
            yield
            return
        try:
            self.interruptible = True
            if self.number is not None:
                raise Interrupted(self.number)
            yield
        except Interrupted:
            self.interruptible = False  # a second signal must not break off the saving
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
        _LOG.info("%s: the step under way is finished and the state saved", signal.Signals(number).name)

    def _end(self, step: int) -> None:
        number = self.number or signal.SIGTERM
        _LOG.warning(
            "stopped by %s at step %d; the state is in %s, and --resume goes on from there",
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
    """The first of the callbacks: what others do at the start, an evaluation that is owed, can be interrupted too."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.interruption.install(trainer)
