"""Warnings for a rising loss, and recovery from a non-finite loss."""

import json
import math

import pytest
import torch
from runs import SMALL, compare, load, rows, train

from detection.training.callbacks import recovery
from detection.training.callbacks.recovery import LossWatch
from detection.training.detection_module import DetectionModule

pytestmark = pytest.mark.usefixtures("thin_networks")
KEYS = [*SMALL, "solver.not_finite=recover", "solver.schedule=step", "solver.steps=[100]", "data.val=1"]


def make_losses_non_finite(monkeypatch, calls, error=None):
    """Make the losses of these calls (from 1) NaN; call ``error`` raises."""
    count, whole = [], DetectionModule.compute_losses

    def compute(self, batch, generator):
        losses = whole(self, batch, generator)
        count.append(1)
        if len(count) == error:
            raise OSError("simulated crash")
        if len(count) in calls:
            losses["loss_box"] = losses["loss_box"] * float("nan")
        return losses

    monkeypatch.setattr(DetectionModule, "compute_losses", compute)


def test_rising_loss_is_reported_once():
    watch = LossWatch()
    assert not any(watch.add(1.0) for _ in range(49))
    assert watch.median is None
    assert not watch.add(100.0)  # the window is not full
    assert watch.median == 1.0
    assert watch.add(11.0)
    assert not watch.healthy()
    assert not watch.add(12.0)  # still rising
    assert not watch.add(1.0)
    assert watch.healthy()
    assert watch.add(10.5)


def test_loss_above_twice_its_minimum_is_not_healthy():
    watch = LossWatch()
    for _ in range(50):
        watch.add(1.0)
    for _ in range(50):
        watch.add(1.9)
    assert watch.healthy()
    for _ in range(50):
        watch.add(2.1)
    assert not watch.healthy()
    watch.restart()
    assert watch.healthy()
    assert watch.lowest == 1.0


def test_recovery_restores_the_snapshot_at_half_the_learning_rate(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(recovery, "WINDOW", 2)
    assert train(tmp_path / "two", keys=[*KEYS, "solver.max_iter=2"]) == 0
    make_losses_non_finite(monkeypatch, {4})
    assert train(tmp_path / "four", keys=[*KEYS, "solver.max_iter=4"]) == 0
    assert "step 4: non-finite loss (loss_box=nan)" in caplog.text
    assert "step 4: restored the weights of step 2, with half the learning rate" in caplog.text
    assert "recovery 1 of at most 3" in caplog.text
    two, four = (load(tmp_path / name / "last.pth") for name in ("two", "four"))
    assert all(torch.equal(two["state_dict"][name], four["state_dict"][name]) for name in two["state_dict"])
    a, b = (s["optimizer_states"][0] for s in (two, four))
    assert all(torch.equal(x, b["state"][k][name]) for k, values in a["state"].items() for name, x in values.items())
    assert b["param_groups"][0]["lr"] == a["param_groups"][0]["lr"] / 2
    (about,) = json.loads((tmp_path / "four" / "run.json").read_text())
    assert [(e["step"], e["kind"]) for e in about["events"]] == [(4, "recovered from a non-finite loss")]
    assert load(tmp_path / "four" / "not_finite.pth")["step"] == 4


def test_halved_learning_rate_applies_to_later_steps(tmp_path, monkeypatch):
    make_losses_non_finite(monkeypatch, {2})
    assert train(tmp_path, keys=KEYS) == 0
    rates = [row["lr"] for row in rows(tmp_path) if "lr" in row]
    assert rates[2:] == [rates[0] / 2] * 2
    assert all(torch.isfinite(v).all() for v in load(tmp_path / "best.pth")["model"].values())


def test_fourth_recovery_ends_the_run_with_advice(tmp_path, monkeypatch, capsys):
    make_losses_non_finite(monkeypatch, set(range(2, 100)))
    assert train(tmp_path, keys=[*KEYS, "solver.max_iter=9"]) == 2
    stderr = capsys.readouterr().err
    assert "step 5: non-finite loss again after 3 recoveries" in stderr
    assert "solver.base_lr" in stderr


def test_resumed_run_recovers_like_the_uninterrupted(tmp_path, monkeypatch):
    """Resumed after the snapshot and before the non-finite loss."""
    monkeypatch.setattr(recovery, "WINDOW", 2)
    keys = [*KEYS, "solver.max_iter=8", "solver.checkpoint_every=5", "solver.ema=0.9"]
    with monkeypatch.context() as patch:
        make_losses_non_finite(patch, {7})
        assert train(tmp_path / "whole", keys=keys) == 0
    with monkeypatch.context() as patch:
        make_losses_non_finite(patch, set(), error=7)
        assert train(tmp_path / "broken", keys=keys) == 2
    saved = load(tmp_path / "broken" / "last.pth")
    assert (saved["global_step"], saved["recovery"]["step"]) == (5, 4)
    make_losses_non_finite(monkeypatch, {2})  # step 7
    assert train(tmp_path / "broken", "--resume", keys=keys) == 0
    assert compare(tmp_path / "whole", tmp_path / "broken") == []


def test_rising_loss_logs_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(recovery, "WINDOW", 2)
    calls, whole = [], DetectionModule.compute_losses

    def compute(self, batch, generator):
        losses = whole(self, batch, generator)
        calls.append(1)
        return {name: value * (1000 if len(calls) == 4 else 1) for name, value in losses.items()}

    monkeypatch.setattr(DetectionModule, "compute_losses", compute)
    assert train(tmp_path, keys=["data.val=1"]) == 0
    assert "step 4: the loss is" in caplog.text
    assert "times its running median" in caplog.text
    assert "in this run: rising loss at step 4" in (tmp_path / "log.txt").read_text()


def test_every_row_has_the_gradient_norm(tmp_path):
    assert train(tmp_path, keys=["data.val=1", "solver.clip_norm=1e-3"]) == 0
    norms = [row["gradient_norm"] for row in rows(tmp_path) if "loss" in row]
    assert len(norms) == 4
    assert all(math.isfinite(norm) and norm > 0.01 for norm in norms)  # before clipping


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_checkpoints_without_recovery_have_no_snapshot(tmp_path, policy):
    assert train(tmp_path, keys=[f"solver.not_finite={policy}", "data.val=1", "solver.max_iter=1"]) == 0
    assert "recovery" not in load(tmp_path / "last.pth")
