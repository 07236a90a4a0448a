from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detection.config import SolverConfig
from detection.training import trainer as module
from detection.training.callbacks.metrics_log import MetricsLog
from detection.training.loop import TrainingModule
from detection.training.trainer import describe_solver, fit, make_trainer, step_callbacks


def failing(monkeypatch, error):
    """A trainer whose fit raises at step 8."""

    def fit(*args, **kwargs):
        raise error

    monkeypatch.setattr(module, "make_trainer", lambda *args: SimpleNamespace(fit=fit, global_step=7))
    return TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=9), seed=0)


def test_a_description_has_the_rate_of_the_batch():
    solver = SolverConfig(batch_size=8, accumulate=2, max_iter=90, base_lr=0.02, reference_batch=16)
    text = describe_solver(solver)
    assert "8 images" in text
    assert "2 micro-batches" in text
    assert "90 steps" in text
    assert "0.01 (" in text  # half the reference batch
    assert "float32" in text


def test_callbacks_watch_before_they_save(tmp_path):
    solver = SolverConfig(max_iter=40, checkpoint_every=0.25)
    checkpoints, interruption, callbacks = step_callbacks(solver, MetricsLog(tmp_path, 0, [], []), tmp_path)
    names = [type(callback).__name__ for callback in callbacks]
    assert names[1:] == ["Recovery", "StepLog", "Checkpoints", "ProgressLine"]
    assert callbacks[0] is interruption.begin
    assert callbacks[3] is checkpoints
    assert interruption not in callbacks
    assert checkpoints.every == 10  # a quarter of the run


def test_other_ranks_have_no_progress_line(tmp_path):
    *_, callbacks = step_callbacks(SolverConfig(max_iter=4), None, tmp_path)
    assert "ProgressLine" not in [type(callback).__name__ for callback in callbacks]


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 5) is killed by signal: Killed.\nsecond line",
        "DataLoader worker (pid(s) 5) exited unexpectedly",
        "DataLoader timed out after 600 seconds",
    ],
)
def test_a_lost_worker_is_the_users_to_mend(monkeypatch, message):
    training = failing(monkeypatch, RuntimeError(message))
    with pytest.raises(OSError, match=r"step 8.*data\.workers") as found:
        fit(training, None, [], None)
    assert "second line" not in str(found.value)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), RuntimeError("DataLoader: other"), ValueError("x")])
def test_other_errors_pass_through(monkeypatch, error):
    training = failing(monkeypatch, error)
    with pytest.raises(type(error)) as found:
        fit(training, None, [], None)
    assert found.value is error


def test_a_fit_gets_the_checkpoint_and_reads_weights_alone(monkeypatch, tmp_path):
    asked = {}
    fake = SimpleNamespace(fit=lambda *args, **kwargs: asked.update(kwargs), global_step=0)
    monkeypatch.setattr(module, "make_trainer", lambda *args: fake)
    training = TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=9), seed=0)
    assert fit(training, None, [], tmp_path / "last.pth") is fake
    assert asked == {"ckpt_path": tmp_path / "last.pth", "weights_only": True}


@pytest.mark.parametrize(("precision", "wanted"), [("float32", "32-true"), ("bf16", "bf16-mixed")])
def test_the_trainer_follows_the_solver(precision, wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = make_trainer(SolverConfig(max_iter=12, accumulate=2, precision=precision), [])
    assert made.max_steps == 12
    assert made.accumulate_grad_batches == 2
    assert made.precision == wanted
    assert made.world_size == 1
    assert made.logger is None
    assert made.checkpoint_callback is None
