import math

import pytest
import torch
from tiny import trainer
from torch import nn

from detection.config import SolverConfig
from detection.training.callbacks.checkpoints import Checkpoints
from detection.training.loop import TrainingModule
from detection.training.replay import NonFiniteLossError


@pytest.fixture
def run():
    """A trainer whose checkpoints hold their step."""
    found = trainer(step=0, lightning_module=TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=10), seed=0))
    found.save_checkpoint = lambda path: path.write_text(str(found.global_step))
    return found


def go(checkpoints, run, steps):
    for step in steps:
        run.global_step = step
        checkpoints.on_step(run, run.lightning_module, step)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_every_third_step_is_saved_and_the_one_before_stays(tmp_path, run):
    checkpoints = Checkpoints(tmp_path, 3)
    go(checkpoints, run, range(1, 3))
    assert contents(tmp_path) == {}
    go(checkpoints, run, range(3, 6))
    assert contents(tmp_path) == {"last.pth": "3"}
    go(checkpoints, run, range(6, 8))
    assert contents(tmp_path) == {"last.pth": "6", "previous.pth": "3"}
    checkpoints.on_train_end(run, run.lightning_module)
    assert contents(tmp_path) == {"last.pth": "7", "previous.pth": "6"}


def test_a_step_is_not_saved_twice(tmp_path, run):
    checkpoints = Checkpoints(tmp_path, 2)
    go(checkpoints, run, (2,))
    checkpoints.on_train_end(run, run.lightning_module)
    assert contents(tmp_path) == {"last.pth": "2"}


def test_an_interval_of_none_saves_every_step(tmp_path, run):
    go(Checkpoints(tmp_path, 0), run, (1, 2))
    assert contents(tmp_path) == {"last.pth": "2", "previous.pth": "1"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_weights_are_not_saved(tmp_path, run, value):
    checkpoints = Checkpoints(tmp_path, 1)
    go(checkpoints, run, (1,))
    with torch.no_grad():
        run.lightning_module.model.weight.fill_(value)
    with pytest.raises(NonFiniteLossError, match="step 2"):
        go(checkpoints, run, (2,))
    assert contents(tmp_path) == {"last.pth": "1"}


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, run):
    checkpoints = Checkpoints(tmp_path, 1)
    go(checkpoints, run, (1,))

    def full(path):
        path.write_text("ha")
        raise OSError(28, "No space left on device")

    run.save_checkpoint = full
    with pytest.raises(OSError, match="step 2"):
        go(checkpoints, run, (2,))
    assert contents(tmp_path) == {"last.pth": "1"}


def test_other_ranks_take_part_and_rename_nothing(tmp_path, run):
    calls = []
    run.is_global_zero, run.save_checkpoint = False, calls.append
    go(Checkpoints(tmp_path, 1), run, (1,))
    assert len(calls) == 1
    assert contents(tmp_path) == {}
