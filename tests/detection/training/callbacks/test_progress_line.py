import logging

import pytest
import torch
from tiny import trainer
from torch import nn

from detection.config import SolverConfig
from detection.training.callbacks import progress_line
from detection.training.callbacks.progress_line import ProgressLine
from detection.training.loop import TrainingModule


@pytest.fixture
def module():
    made = TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=5), seed=0)
    made.losses = {"loss_box": torch.tensor(0.25)}
    return made


def test_a_log_file_has_every_second_step_and_the_last(module, caplog):
    caplog.set_level(logging.INFO, logger="detection")
    line = ProgressLine(5, every=2)
    line.on_train_start(trainer(), module)
    for step in range(1, 6):
        line.on_step(trainer(step), module, step)
    line.teardown(trainer(5), module, "fit")
    said = [record.getMessage() for record in caplog.records]
    assert [text.split()[1] for text in said] == ["2/5", "4/5", "5/5"]
    assert all("box 0.250" in text for text in said)
    assert all("gradient" not in text for text in said)
    assert "0:00:00" in said[-1]


def test_time_left_goes_by_the_steps_since_the_start(module, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="detection")
    now = [100.0]
    monkeypatch.setattr(progress_line.time, "perf_counter", lambda: now[0])
    line = ProgressLine(100, every=10)
    line.on_train_start(trainer(40), module)  # resumed
    now[0] += 600
    module.gradient_norm = torch.tensor(12.5)
    line.on_step(trainer(50), module, 50)  # 10 steps in 600 s, and 50 more
    assert "0:50:00" in caplog.text
    assert "12.5" in caplog.text


def test_a_terminal_has_a_bar_in_place_of_lines(module, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="detection")
    line = ProgressLine(5, every=1)
    monkeypatch.setattr(line.bar.console, "_force_terminal", True)
    monkeypatch.setattr(line.bar, "start", lambda: None)
    line.on_train_start(trainer(), module)
    line.on_step(trainer(3), module, 3)
    assert caplog.text == ""
    assert line.bar.tasks[0].completed == 3
    assert line.bar.tasks[0].total == 5
