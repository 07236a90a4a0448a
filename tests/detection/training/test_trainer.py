import itertools
import math
from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from detection.config import SolverConfig
from detection.training import trainer as module
from detection.training.callbacks.metrics_log import MetricsLog, read_rows
from detection.training.loop import TrainingModule
from detection.training.replay import NonFiniteLossError
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


@pytest.mark.parametrize(
    ("precision", "wanted"), [("float32", "32-true"), ("bf16", "bf16-mixed"), ("fp16", "16-mixed")]
)
def test_the_trainer_follows_the_solver(precision, wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = make_trainer(SolverConfig(max_iter=12, accumulate=2, precision=precision), [])
    assert made.max_steps == 12
    assert made.accumulate_grad_batches == 2
    assert made.precision == wanted
    assert made.precision_plugin.device == "cpu" if precision == "fp16" else True
    assert made.world_size == 1
    assert made.logger is None
    assert made.checkpoint_callback is None


class Line(TrainingModule):
    """The loss is w·x, and its gradient x."""

    root = False  # take the loss' root: its gradient at 0 is infinite

    def __init__(self, precision="fp16", output=None, **solver):
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        settings = {"max_iter": 6, "batch_size": 1, "warmup": 0, "steps": (), "base_lr": 0.5, "momentum": 0.0}
        settings |= {"weight_decay": 0.0, "lr_scaling": "none", "not_finite": "skip"}
        super().__init__(model, SolverConfig(**(settings | solver), precision=precision), seed=0, output=output)

    def compute_losses(self, batch, generator):
        loss = self.model(16 * batch).float().sum() / 16
        return {"loss": loss.sqrt() if self.root else loss}


class Weights(lightning.Callback):
    """The weight and the gradient's norm after every step."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.rows.append((module.model.weight.item(), float(module.gradient_norm)))


class Endless(IterableDataset):
    """A batch of each value, again and again, as the order of training has no end."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return (torch.tensor([[value]]) for value in itertools.cycle(self.values))


def run(module, values, start=None, callbacks=()):
    """Train on a value a step; return weights and gradient norms by step, and the trainer."""
    weights = Weights()
    loader = DataLoader(Endless(values), batch_size=None)
    return weights.rows, fit(module, loader, [weights, *callbacks], start)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_gradients_are_unscaled_before_their_norm_and_clipping(optimizer):
    plain, scaled = (
        run(Line(precision, optimizer=optimizer, clip_norm=0.25), [0.5] * 6)[0] for precision in ("float32", "fp16")
    )
    assert [norm for _, norm in scaled] == [0.5] * 6  # exact in float16
    assert scaled == plain


def test_small_gradients_do_not_underflow():
    """2^-26 is 0 in float16, and 2^-10 when the loss is multiplied by 2^16."""
    rows, _ = run(Line(max_iter=1), [2.0**-26])
    assert rows == [(-(2.0**-27), 2.0**-26)]


def test_an_overflow_leaves_a_step_out_and_is_no_non_finite_loss(caplog):
    """2·2^16 and 2·2^15 overflow float16, whose largest number is 65504; 2·2^14 does not."""
    module = Line(ema=0.5)
    rows, trainer = run(module, [2.0] * 6)
    assert [weight for weight, _ in rows] == [0, 0, -1, -2, -3, -4]
    assert [norm for _, norm in rows] == [math.inf, math.inf, 2, 2, 2, 2]
    assert trainer.precision_plugin.scaler.get_scale() == 2**14
    assert trainer.global_step == 6  # both counted, so that the schedule ends with the run
    assert module.skipped == 0
    assert not [record for record in caplog.records if record.levelname != "INFO"]


def test_a_non_finite_loss_is_skipped_and_leaves_the_scale():
    module = Line()
    rows, trainer = run(module, [0.5, math.inf, 0.5, 0.5, 0.5, 0.5])
    assert [weight for weight, _ in rows] == [-0.25, -0.25, -0.5, -0.75, -1, -1.25]
    assert module.skipped == 1
    assert trainer.precision_plugin.scaler.get_scale() == 2**16


def test_a_resumed_run_has_the_scale_of_its_checkpoint(tmp_path):
    values = [0.5, 2.0, 2.0, 0.25, 0.125, 1.0]
    whole, trainer = run(Line(), values)
    scale = trainer.precision_plugin.state_dict()
    first = Line(max_iter=3)
    _, trainer = run(first, values)
    trainer.save_checkpoint(tmp_path / "last.pth")
    assert torch.load(tmp_path / "last.pth", weights_only=True)["LossScaling"]["scale"] == 2**14
    rest, trainer = run(Line(), values[3:], tmp_path / "last.pth")
    assert rest == whole[3:]
    assert trainer.precision_plugin.state_dict() == scale


def test_gradients_that_float16_cannot_hold_end_the_run(tmp_path):
    module = Line(max_iter=60, log_every=5)
    module.root = True
    *_, callbacks = step_callbacks(module.solver, MetricsLog(tmp_path, 0, [], []), tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"step 30: the gradients overflow float16 .*solver\.precision"):
        run(module, [1.0] * 60, callbacks=callbacks)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["gradient_norm"] for row in rows] == [None] * len(rows)  # JSON has no infinity


def test_a_resumed_run_in_another_precision_begins_with_a_new_scale(tmp_path):
    _, trainer = run(Line("float32", max_iter=1), [0.5])
    trainer.save_checkpoint(tmp_path / "last.pth")
    rows, _ = run(Line(max_iter=2), [0.5], tmp_path / "last.pth")
    assert rows == [(-0.5, 0.5)]
