import csv
import importlib.util
import sys

import torch
from tiny import trainer
from torch import nn

from detection.config import SolverConfig
from detection.training.callbacks import metrics_log
from detection.training.callbacks.metrics_log import MetricsLog, StepLog, memory_mb, read_rows
from detection.training.loop import TrainingModule


def csv_rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Logger:
    def __init__(self):
        self.lines, self.saved = [], 0

    def log_metrics(self, numbers, step):
        self.lines.append((step, numbers))

    def save(self):
        self.saved += 1


def test_both_files_have_the_same_lines(tmp_path):
    log = MetricsLog(tmp_path, 0, ["loss_a"], ["AP"])
    log.write({"step": 1, "loss_a": 0.5, "unknown": 3})
    log.write({"step": 2, "AP": None})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss_a": 0.5}, {"step": 2, "AP": None}]
    assert [(row["step"], row["loss_a"], row["AP"]) for row in csv_rows(tmp_path)] == [("1", "0.5", ""), ("2", "", "")]


def test_a_resumed_run_drops_the_lines_beyond_its_start(tmp_path):
    log = MetricsLog(tmp_path, 0, [], ["AP"])
    for step in (1, 2, 3):
        log.write({"step": step, "AP": step / 10})
    MetricsLog(tmp_path, 2, [], ["AP"]).write({"step": 3, "AP": 0.9})
    wanted = [(1, 0.1), (2, 0.2), (3, 0.9)]
    assert [(row["step"], row["AP"]) for row in read_rows(tmp_path / "metrics.jsonl")] == wanted
    assert [(int(row["step"]), float(row["AP"])) for row in csv_rows(tmp_path)] == wanted


def test_a_new_run_begins_empty(tmp_path):
    MetricsLog(tmp_path, 0, [], ["AP"]).write({"step": 1, "AP": 0.1})
    MetricsLog(tmp_path, 0, [], ["AP"])
    assert read_rows(tmp_path / "metrics.jsonl") == csv_rows(tmp_path) == []


def test_loggers_get_numbers_alone(tmp_path):
    logger = Logger()
    log = MetricsLog(tmp_path, 0, [], ["AP", "AP50"], [logger])
    log.write({"step": 4, "AP": None, "AP50": 1})
    log.close()
    assert logger.lines == [(4, {"AP50": 1.0})]
    assert logger.saved == 1


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]


def test_every_third_step_and_the_last_have_a_line(tmp_path):
    weight = torch.ones(1)
    run = trainer(optimizers=[torch.optim.SGD([weight], lr=0.25)])
    module = TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=7, batch_size=4), seed=0)
    log = StepLog(MetricsLog(tmp_path, 0, ["loss_a", "loss_b"], []), every=3)
    log.on_train_start(run, module)
    for step in range(1, 8):
        log.on_train_batch_start(run, module, None, 0)
        module.losses = {"loss_a": torch.tensor(float(step)), "loss_b": torch.tensor(0.5)}
        module.gradient_norm = torch.tensor(2.0)
        run.global_step = step
        log.on_train_batch_end(run, module, None, None, 0)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss_a"], row["loss"]) for row in rows] == [(3, 3, 3.5), (6, 6, 6.5), (7, 7, 7.5)]
    assert all(row["lr"] == 0.25 and row["gradient_norm"] == 2 and row["memory_mb"] > 0 for row in rows)


def test_seconds_are_means_over_the_steps_of_a_line(tmp_path, monkeypatch):
    """A clock by hand: 2 seconds of waiting and 6 of work a step, 8 images a step."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    run = trainer(optimizers=[torch.optim.SGD([torch.ones(1)], lr=1.0)])
    module = TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=9, batch_size=8), seed=0)
    log = StepLog(MetricsLog(tmp_path, 0, [], []), every=2)
    log.on_train_start(run, module)
    for step in (1, 2):
        now[0] += 2
        log.on_train_batch_start(run, module, None, 0)
        now[0] += 6
        run.global_step = step
        log.on_train_batch_end(run, module, None, None, 0)
        now[0] += 100  # an evaluation, which does not count
        module.on_train_batch_end()
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert (row["seconds"], row["data_seconds"], row["images_per_second"]) == (8, 2, 1)


def test_other_ranks_write_nothing():
    run, module = trainer(), TrainingModule(nn.Linear(1, 1), SolverConfig(max_iter=1), seed=0)
    log = StepLog(None, every=1)
    log.on_step(run, module, 1)
    log.teardown(run, module, "fit")


def test_memory_of_this_process_counts_mebibytes():
    assert 20 < memory_mb(torch.device("cpu")) < 100_000  # of Python and torch: more than 20 million bytes


def test_windows_has_no_resource_module_and_no_memory(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # its import raises, as on Windows
    spec = importlib.util.spec_from_file_location("on_windows", metrics_log.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.memory_mb(torch.device("cpu")) is None
