"""Small training runs on the synthetic dataset, which take seconds, and comparison of two runs."""

from pathlib import Path
from typing import Any

import torch

from detection.cli import run
from detection.training.callbacks.metrics_log import read_rows

TOOLS = Path(__file__).parents[1] / "tools"
THIN = Path(__file__).with_name("thin.py")
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
TIMES = {"seconds", "data_seconds", "images_per_second", "memory_mb"}  # columns that differ between equal runs


def command_train(argv):
    """Run `resdet train` in this process; return its exit code."""
    return run("train", argv)


def train(output, *extra, keys=()):
    """Train with the quickstart configuration and the SMALL overrides; return the exit code."""
    return command_train(["--config", "quickstart.yaml", "--output", str(output), *SMALL, *extra, *keys])


def load(path):
    return torch.load(path, weights_only=True)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Return the paths at which two nested states differ, in tensors, values, keys or types."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            return [f"{where}: different keys"]
        return [path for key in a for path in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple):
        if type(a) is not type(b) or len(a) != len(b):
            return [f"{where}: different lengths"]
        return [path for i, item in enumerate(a) for path in differences(item, b[i], f"{where}[{i}]")]
    return [] if a == b else [f"{where}: {a!r} and {b!r}"]


def rows(output: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without the columns of TIMES."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(output / "metrics.jsonl")]


def compare(a: Path, b: Path) -> list[str]:
    """Return the differences of two finished runs: weights, optimiser, schedule, EMA, best, losses, detections."""
    result = []
    for name in ("last.pth", "best.pth"):
        states = [torch.load(folder / name, weights_only=True) for folder in (a, b)]
        for state in states:
            state.pop("loops", None)  # batch counters since the process started
        result += differences(*states, where=name)
    result += differences(rows(a), rows(b), "metrics.jsonl")
    for name in ("metrics.json", "detections.json"):
        if (a / name).read_text() != (b / name).read_text():
            result.append(name)
    return result
