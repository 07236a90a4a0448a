import pytest
from tiny import trainer
from torch import nn

from detection.config import SolverConfig
from detection.training.callbacks.base import StepCallback
from detection.training.loop import TrainingModule


class Steps(StepCallback):
    def __init__(self):
        self.seen = []

    def on_step(self, trainer, module, step):
        self.seen.append((self.last_step, step))


def module():
    return TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=10), seed=0)


def test_a_step_of_several_micro_batches_is_seen_once():
    callback, of, run = Steps(), module(), trainer(step=4)
    callback.on_train_start(run, of)
    for step in (4, 4, 5, 5, 5, 6):  # global_step after each micro-batch
        run.global_step = step
        callback.on_train_batch_end(run, of, None, None, 0)
    assert callback.seen == [(4, 5), (5, 6)]


def test_a_resumed_run_does_not_see_the_step_it_begins_at():
    callback, of = Steps(), module()
    callback.on_train_start(trainer(step=3), of)
    callback.on_train_batch_end(trainer(step=3), of, None, None, 0)
    assert callback.seen == []


def test_a_subclass_must_say_what_it_does():
    callback, of = StepCallback(), module()
    callback.on_train_start(trainer(step=0), of)
    with pytest.raises(NotImplementedError):
        callback.on_train_batch_end(trainer(step=1), of, None, None, 0)
