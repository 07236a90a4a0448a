"""Benchmark a small network on CIFAR-10's sizes against a plain PyTorch loop: training steps and evaluation.

The peer is what tutorials and public CIFAR code do: torchvision's transforms image by image, the same network in NCHW, SGD,
``loss.backward()``. Both train the same network on the same images with as many DataLoader workers, in turn.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from backbone import cifar_resnet
from benchmarks.machine import machine
from detection.classification.config import ClassifierConfig
from detection.classification.train import evaluate_only, train
from detection.config import load

DEPTH, BATCH, STEPS, SKIPPED, IMAGES = 20, 128, 40, 10, 2000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def run(args: argparse.Namespace) -> int:
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cifar(folder)
        seconds: dict[str, tuple[list[float], list[float]]] = {"training step": ([], []), "evaluation": ([], [])}
        for i in range(args.repeat):
            ours, weights = our_training(folder, folder / f"run{i}", args.workers)
            seconds["training step"][0].append(ours)
            seconds["training step"][1].append(plain_training(folder, args.workers))
            seconds["evaluation"][0].append(our_evaluation(folder, weights, folder / f"eval{i}"))
            seconds["evaluation"][1].append(plain_evaluation(folder))
    print(f"\nResNet-{DEPTH}, {BATCH} images a step, {args.workers} workers; evaluation of {IMAGES} images\n")
    print("| | resdet, seconds | plain loop, seconds | resdet / plain (pairs) |\n|---|---|---|---|")
    for what, (ours_, theirs) in seconds.items():
        ratios = [a / b for a, b in zip(ours_, theirs, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {what} | {statistics.median(ours_):.3f} | {statistics.median(theirs):.3f} | {ratio} |", flush=True)
    return 0


def write_cifar(folder: Path) -> None:
    """Write CIFAR-10's files with random images."""
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        records = rng.integers(0, 256, (IMAGES, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / name)


def our_training(data: Path, output: Path, workers: int) -> tuple[float, Path]:
    """Return seconds a step of a whole run, without its start and its end, and its weights."""
    keys = [f"data.root={data}", f"data.workers={workers}", f"solver.max_iter={STEPS}", "solver.eval_every=0"]
    keys += [f"solver.log_every={SKIPPED}", "statistics_images=0", f"solver.checkpoint_every={STEPS}"]
    keys += ["solver.steps=[0.5]"]
    train(load(ClassifierConfig, "cifar10_resnet20", keys, "classifiers"), output)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return statistics.median(
        row["seconds"] for row in rows if "loss" in row and row["step"] > SKIPPED
    ), output / "best.pth"


def our_evaluation(data: Path, weights: Path, output: Path) -> float:
    keys = [f"data.root={data}", "data.workers=0"]
    start = time.perf_counter()
    evaluate_only(load(ClassifierConfig, "cifar10_resnet20", keys, "classifiers"), weights, output)
    return time.perf_counter() - start


class Images(Dataset[tuple[torch.Tensor, int]]):
    """CIFAR-10's binary files with torchvision's transforms, image by image."""

    def __init__(self, data: Path, split: str) -> None:
        names = ["test_batch.bin"] if split == "val" else [f"data_batch_{i}.bin" for i in range(1, 6)]
        records = np.concatenate([np.fromfile(data / name, np.uint8).reshape(-1, 3073) for name in names])
        self.labels, self.images = records[:, 0], torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32))
        crop = [v2.RandomCrop(32, 4), v2.RandomHorizontalFlip()] if split == "train" else []
        self.transform = v2.Compose([*crop, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[i]), int(self.labels[i])


def plain_training(data: Path, workers: int) -> float:
    """Return seconds a step."""
    net = cifar_resnet(DEPTH)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(Images(data, "train"), BATCH, shuffle=True, num_workers=workers)
    times: list[float] = []
    batches = iter(loader)
    for _ in range(STEPS):
        start = time.perf_counter()
        images, labels = next(batches)
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss)
        times.append(time.perf_counter() - start)
    return statistics.median(times[SKIPPED:])


@torch.no_grad()
def plain_evaluation(data: Path) -> float:
    start = time.perf_counter()
    net = cifar_resnet(DEPTH).eval()
    for images, labels in DataLoader(Images(data, "val"), BATCH):
        (net(images).argmax(1) == labels).sum()
    return time.perf_counter() - start
