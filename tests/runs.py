"""Whole runs on drawn pictures, small enough for seconds."""

from pathlib import Path

import torch

from detection.cli import run, train

TOOLS = Path(__file__).parents[1] / "tools"
SMALL = [
    "data.train=6",
    "data.val=2",
    "data.short_side=[64]",
    "data.max_side=80",
    "data.workers=0",
    "pretrain.iterations=0",
    "model.norm=bn",
    "model.freeze_at=0",
    "solver.batch_size=2",
    "solver.max_iter=4",
    "solver.log_every=1",
    "solver.checkpoint_every=2",
    "solver.warmup=0",
    "model.rpn.after_nms_train=20",
    "model.rpn.after_nms_test=10",
    "model.roi.batch_per_image=8",
    "model.roi.resolution=4",
]


def go(output, *extra, keys=()):
    return run(train, ["--config", "quickstart.yaml", "--output", str(output), *extra, *SMALL, *keys])


def state(path):
    return torch.load(path, weights_only=True)
