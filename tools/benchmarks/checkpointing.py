"""Measure the memory and the time that gradient checkpointing of the trunk saves and costs, in a training step."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.machine import machine, peak_rss_mb
from detection.config import config_from_dict
from detection.data.loader import Batch
from detection.modeling.build import build_model
from detection.training.detection_module import DetectionModule

_ROOT = Path(__file__).parents[2]


def run(args: argparse.Namespace) -> int:
    """Run the steps with and without, in turn, each in a process of its own, and print medians and ratios."""
    rows: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tools")])}
    for _ in range(args.repeat):
        for on in (False, True):
            task = json.dumps(
                {
                    "on": on,
                    "size": args.size,
                    "batch": args.batch,
                    "network": args.network,
                    "architecture": args.architecture,
                }
            )
            command = [sys.executable, "-c", f"from benchmarks.checkpointing import child; child({task!r})"]
            out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            rows[on].append(json.loads(out.splitlines()[-1]))
    print(f"{machine()}\n{args.network}-{args.architecture}, {args.batch} x {args.size[0]}x{args.size[1]}\n")
    print("| checkpoint_trunk | step, MB above the model | whole process, MB | seconds |\n|---|---|---|---|")
    median = {
        on: {key: statistics.median(row[key] for row in rows[on]) for key in ("step_mb", "peak_mb", "seconds")}
        for on in rows
    }
    for on, row in median.items():
        print(f"| {str(on).lower()} | {row['step_mb']:.0f} | {row['peak_mb']:.0f} | {row['seconds']:.2f} |")
    ratios = ", ".join(f"{key} {median[True][key] / median[False][key]:.2f}" for key in median[True])
    equal = rows[True][0]["loss"] == rows[False][0]["loss"]
    print(f"\nwith / without: {ratios}; the losses are {'equal' if equal else 'NOT equal'}")
    return 0


def child(task: str) -> None:
    """Take three steps on random images and print their peak memory, the last one's seconds and loss."""
    t = json.loads(task)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = {"backbone": t["network"], "architecture": t["architecture"], "norm": "bn", "freeze_at": 0}
    if t["architecture"] == "fpn":
        model["anchors"] = {"sizes": [32, 64, 128, 256, 512]}
    solver = {"checkpoint_trunk": t["on"], "batch_size": t["batch"], "max_iter": 10}
    config = config_from_dict({"model": model, "solver": solver})
    detector = build_model(config.model, 80)
    module = DetectionModule(detector, config, classes=None).to(device).train()  # type: ignore[arg-type]
    height, width = t["size"]
    images = [torch.randint(256, (3, height, width), dtype=torch.uint8, device=device) for _ in range(t["batch"])]
    box = torch.tensor([[10.0, 10, width / 2, height / 2]], device=device)
    targets = [{"boxes": box, "labels": torch.tensor([3], device=device)} for _ in images]
    batch = Batch(images, targets, list(range(len(images))), [(height, width)] * len(images), [True] * len(images))
    before, times = peak_rss_mb(), []
    for step in range(3):
        start = time.perf_counter()
        losses = module.compute_losses(batch, torch.Generator(device).manual_seed(step))
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        value = float(loss)
        times.append(time.perf_counter() - start)
        module.zero_grad()
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_rss_mb()
    before = sum(p.nbytes for p in module.parameters()) / 2**20 if device.type == "cuda" else before
    print(json.dumps({"step_mb": peak - before, "peak_mb": peak, "seconds": min(times), "loss": value}))
