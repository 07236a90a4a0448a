import contextlib
from types import SimpleNamespace

import pytest
from tiny import trainer
from torch import nn

from detection.config import SolverConfig
from detection.training.callbacks.evaluation import Evaluation
from detection.training.loop import TrainingModule


class Module(TrainingModule):
    def save_weights(self, path):
        path.write_text("weights")


class Run:
    """An evaluation callback whose evaluations give the values listed; what it did."""

    def __init__(self, folder, values, every=2, patience=None, **options):
        self.values, self.saved, self.rows, self.at = list(values), [], [], []
        self.trainer = trainer()
        solver = {"max_iter": 100, "eval_every": every, **options.pop("solver", {})}
        self.module = Module(nn.Linear(1, 1), SolverConfig(**solver), seed=0)
        self.folder = folder
        checkpoints = SimpleNamespace(save=lambda of: self.saved.append(of.global_step))
        interruption = SimpleNamespace(interruptible_evaluation=lambda of: contextlib.nullcontext())
        metrics = SimpleNamespace(write=self.rows.append)
        self.evaluation = Evaluation(
            self.evaluate, "AP", every, folder, metrics, patience, checkpoints, interruption, **options
        )

    def evaluate(self, module):
        self.at.append(self.trainer.global_step)
        return self.values.pop(0)

    def step(self, *steps):
        for step in steps:
            self.trainer.global_step = step
            self.evaluation.on_step(self.trainer, self.module, step)

    def best(self):
        """Whether best.pth was written since the last question."""
        path = self.folder / "best.pth"
        found = path.exists()
        path.unlink(missing_ok=True)
        return found


def ap(*values):
    return [{"AP": value} for value in values]


def test_evaluations_every_few_steps_and_at_the_end(tmp_path):
    run = Run(tmp_path, ap(0.1, 0.2, 0.3))
    run.step(1, 2, 3, 4, 5)
    run.evaluation.on_train_end(run.trainer, run.module)
    run.evaluation.on_train_end(run.trainer, run.module)  # done already
    assert run.at == run.saved == [2, 4, 5]
    assert run.rows == [{"step": 2, "AP": 0.1}, {"step": 4, "AP": 0.2}, {"step": 5, "AP": 0.3}]


def test_zero_evaluates_only_at_the_end(tmp_path):
    run = Run(tmp_path, ap(0.1), every=0)
    run.step(1, 2, 3)
    assert run.at == []
    run.evaluation.on_train_end(run.trainer, run.module)
    assert run.at == [3]


def test_best_weights_are_those_of_the_largest_value(tmp_path):
    run = Run(tmp_path, ap(0.3, 0.2, 0.3, 0.4))
    kept = []
    for step in (2, 4, 6, 8):
        run.step(step)
        kept.append(run.best())
    assert kept == [True, False, False, True]  # an equal value is no better
    assert run.evaluation.best == 0.4


def test_without_a_value_the_last_weights_are_kept(tmp_path):
    run = Run(tmp_path, ap(None, None))
    run.step(2)
    assert run.best()
    run.step(4)
    assert run.best()


def test_a_run_stops_after_evaluations_without_a_better_one(tmp_path):
    run = Run(tmp_path, ap(0.3, 0.2, 0.3), patience=2)
    run.step(2, 4)
    assert not run.trainer.should_stop
    run.step(6)
    assert run.trainer.should_stop


def test_a_plateau_lowers_the_rate(tmp_path):
    plateau = {"schedule": "plateau", "patience": 2, "gamma": 0.1, "warmup": 0}
    run = Run(tmp_path, ap(0.3, 0.2, 0.2, 0.2, 0.2), solver=plateau)
    factors = []
    for step in (2, 4, 6, 8, 10):
        run.step(step)
        factors.append(run.module.schedule(step))
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_an_evaluation_that_is_owed_is_done_at_the_start(tmp_path):
    run = Run(tmp_path, ap(0.1))
    run.trainer.global_step = 4
    run.evaluation.load_state_dict({"best": 0.5, "without_gain": 1, "done_at": 2})
    run.evaluation.on_train_start(run.trainer, run.module)
    assert run.at == [4]
    assert run.evaluation.state_dict() == {"best": 0.5, "without_gain": 2, "done_at": 4}


def test_an_evaluation_that_was_done_is_not_repeated(tmp_path):
    run = Run(tmp_path, [])
    run.trainer.global_step = 4
    run.evaluation.load_state_dict({"best": 0.5, "without_gain": 1, "done_at": 4})
    run.evaluation.on_train_start(run.trainer, run.module)
    run.evaluation.on_train_end(run.trainer, run.module)
    assert run.at == []


def test_a_lengthened_run_has_its_patience_again(tmp_path):
    run = Run(tmp_path, [], lengthened=True)
    run.trainer.global_step = 4
    run.evaluation.load_state_dict({"best": 0.5, "without_gain": 3, "done_at": 4})
    run.evaluation.on_train_start(run.trainer, run.module)
    assert run.evaluation.state_dict() == {"best": 0.5, "without_gain": 0, "done_at": 4}


def test_images_are_drawn_when_metrics_and_weights_are_written(tmp_path):
    done = []
    run = Run(tmp_path, ap(0.1), draw=lambda: done.append((len(run.rows), run.best(), run.saved[:])))
    run.step(2)
    assert done == [(1, True, [2])]
