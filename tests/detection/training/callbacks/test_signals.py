import signal
from types import SimpleNamespace

import pytest
from tiny import trainer
from torch import nn

from detection.config import SolverConfig
from detection.training.callbacks.signals import Interrupted, Interruption
from detection.training.loop import TrainingModule


class Checkpoints:
    """Counts the checkpoints."""

    def __init__(self, folder):
        self.folder, self.saved = folder, []

    def ensure(self, of):
        self.saved.append(of.global_step)


@pytest.fixture
def run():
    return trainer(_signal_connector=SimpleNamespace(received_sigterm=False))


@pytest.fixture
def module():
    return TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=30), seed=0)


@pytest.fixture
def interruption(tmp_path, run, module):
    """Installed; the handlers of before are back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    made = Interruption(Checkpoints(tmp_path))
    made.begin.on_train_start(run, module)
    yield made
    made.teardown(run, module, "fit")
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(interruption, run, module, number, code):
    interruption.on_step(run, module, 3)
    signal.raise_signal(number)
    assert interruption.checkpoints.saved == []  # the step is finished first
    run.global_step = 4
    with pytest.raises(Interrupted) as ended:
        interruption.on_step(run, module, 4)
    assert ended.value.code == code
    assert interruption.checkpoints.saved == [4]


def test_a_signal_in_the_last_step_lets_the_run_end(interruption, run, module):
    signal.raise_signal(signal.SIGTERM)
    interruption.on_step(run, module, module.solver.max_iter)
    assert interruption.checkpoints.saved == []


def test_a_second_ctrl_c_ends_at_once(interruption):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)
    assert interruption.checkpoints.saved == []


def test_an_evaluation_is_interrupted_at_once(interruption, run):
    run.global_step = 8
    with pytest.raises(Interrupted), interruption.interruptible_evaluation(run):
        signal.raise_signal(signal.SIGTERM)
    assert interruption.checkpoints.saved == [8]


def test_an_evaluation_does_not_begin_after_a_signal(interruption, run):
    signal.raise_signal(signal.SIGTERM)
    begun = []
    with pytest.raises(Interrupted), interruption.interruptible_evaluation(run):
        begun.append("not reached")
    assert begun == []


def test_errors_of_an_evaluation_pass_through(interruption, run):
    with pytest.raises(ValueError, match="mine"), interruption.interruptible_evaluation(run):
        raise ValueError("mine")
    assert interruption.checkpoints.saved == []
    signal.raise_signal(signal.SIGTERM)  # outside of it: noted


def test_a_signal_that_lightning_got_before_counts(tmp_path, run, module):
    run._signal_connector.received_sigterm = True
    made = Interruption(Checkpoints(tmp_path))
    made.begin.on_train_start(run, module)
    try:
        with pytest.raises(Interrupted):
            made.on_step(run, module, 1)
    finally:
        made.teardown(run, module, "fit")


def test_several_processes_agree_every_tenth_step(tmp_path, module):
    """The signal came to another process."""
    asked = []
    strategy = SimpleNamespace(reduce_boolean_decision=lambda stop, all: asked.append(stop) or True)
    run = trainer(world_size=2, strategy=strategy, _signal_connector=SimpleNamespace(received_sigterm=False))
    made = Interruption(Checkpoints(tmp_path))
    made.begin.on_train_start(run, module)
    try:
        for step in range(1, 10):
            made.on_step(run, module, step)
        assert asked == []
        with pytest.raises(Interrupted):
            made.on_step(run, module, 10)
        assert asked == [False]
    finally:
        made.teardown(run, module, "fit")
