"""Runs with the training options (docs/training_options.md): resumed as without them, and as the configuration says."""

import multiprocessing
import os

import pytest
import torch
from runs import SMALL, command_train, compare, train

from detection import load_config
from detection.training.callbacks.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("thin_networks")
OPTIONS = [
    "data.keep_empty=false",
    "data.repeat_threshold=0.9",
    "data.augment=[{RandomIoUCrop: {}}, {RandomBrightnessContrast: {p: 0.5}}]",
    "data.mosaic=0.5",
    "data.mixup=0.5",
    "model.roi.class_weights=balanced",
    "model.roi.focal_gamma=2",
    "model.roi.nms=soft_gaussian",
    "model.roi.class_agnostic_nms=true",
    "solver.checkpoint_trunk=true",
    "solver.warmup_epochs=0.5",
    "solver.steps_epochs=[1]",
]


def train_epochs(output, *extra, keys):
    small = [key for key in SMALL if not key.startswith("solver.max_iter")]
    return command_train(["--config", "quickstart.yaml", "--output", str(output), *extra, *small, *keys])


def stopped_at_step_2(output, keys):
    """Train in a process that ends at once after its checkpoint of step 2."""
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    save = Checkpoints.save

    def save_and_exit(self, trainer):
        save(self, trainer)
        if trainer.global_step == 2:
            os._exit(9)

    Checkpoints.save = save_and_exit
    train_epochs(output, keys=keys)
    os._exit(1)


def test_a_run_with_all_options_resumes_exactly(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    keys = [*OPTIONS, "solver.max_epochs=1.6"]
    assert train_epochs(whole, keys=keys) == 0
    log = (whole / "log.txt").read_text()
    assert "data.repeat_threshold=0.9:" in log
    assert "solver.max_epochs=1.6:" in log
    assert "model.roi.class_weights: background 1" in log
    written = load_config(whole / "config.yaml")
    assert written.solver.max_epochs is None
    assert written.solver.max_iter >= 4
    assert len(written.model.roi.class_weights) == 7
    process = multiprocessing.get_context("fork").Process(target=stopped_at_step_2, args=(broken, keys))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert train_epochs(broken, "--resume", keys=keys) == 0
    assert compare(whole, broken) == []


def test_suppression_is_a_setting_of_evaluation(tmp_path):
    assert train(tmp_path / "run", keys=["model.roi.score_threshold=0", "solver.max_iter=1"]) == 0
    weights = ["--eval-only", "--weights", str(tmp_path / "run" / "best.pth")]
    results = {}
    for name, keys in {
        "hard": [],
        "soft": ["model.roi.nms=soft_linear"],
        "padded": ["model.roi.nms=soft_linear", "model.padded=true"],
    }.items():
        assert train(tmp_path / name, *weights, keys=keys) == 0
        results[name] = (tmp_path / name / "detections.json").read_text()
    assert results["hard"] == (tmp_path / "run" / "detections.json").read_text()
    assert results["soft"] != results["hard"]
    assert results["soft"] == results["padded"]
