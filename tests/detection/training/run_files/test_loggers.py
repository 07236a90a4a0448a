"""Loggers by name, and a failing logger."""

import logging

import pytest

from detection.training.run_files.loggers import GuardedLogger, check_loggers, make_loggers


class Fails:
    name = "fails"

    def __init__(self):
        self.calls = 0

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        raise RuntimeError("no connection")

    def finalize(self, status):
        self.calls += 1


def test_failing_logger_warns_once_and_is_disabled(caplog):
    logger = GuardedLogger(fails := Fails())
    for step in (1, 2):
        logger.log_metrics({"loss": 1.0}, step=step)
    logger.finalize("success")
    logger.save()  # not implemented by Fails
    assert fails.calls == 1
    assert caplog.text.count("Fails failed and is disabled: no connection") == 1
    assert logger.name == "fails"


def test_missing_logger_packages_raise_before_a_run(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(
        ValueError, match=r"solver.loggers has wandb, which is not installed .*pip install resdet\[wandb\]"
    ):
        check_loggers(["wandb"])


def test_tensorboard_writes_to_the_run_folder(tmp_path):
    pytest.importorskip("tensorboard")
    (logger,) = make_loggers(["tensorboard"], tmp_path)
    logger.log_hyperparams({"solver": {"base_lr": 0.1}})
    logger.log_metrics({"loss": 1.5}, step=3)
    logger.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert logging.getLogger("detection").level is not None
