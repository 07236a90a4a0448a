"""Benchmark the start-up time of commands against the imports that they need."""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import machine

_TRAIN = str(Path(__file__).parents[1] / "train_net.py")
# command, baseline
_PAIRS = (
    (("-c", "import backbone"), ("-c", "import torch")),
    ((_TRAIN, "--help"), ("-c", "import torch, torchvision")),
)


def run(args: argparse.Namespace) -> int:
    print(
        f"{machine()}\n\n| command | seconds (median) | baseline | seconds | difference (pairs) |\n|---|---|---|---|---|"
    )
    for pair in _PAIRS:
        seconds: tuple[list[float], list[float]] = ([], [])
        for repetition in range(args.repeat + 1):
            for command, times in zip(pair, seconds, strict=True):
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
                if repetition:  # the first is a warm-up of the disk cache
                    times.append(time.perf_counter() - start)
        difference = statistics.median(a - b for a, b in zip(*seconds, strict=True))
        names = [" ".join(Path(word).name if word is _TRAIN else word for word in command) for command in pair]
        a, b = (statistics.median(times) for times in seconds)
        print(f"| `{names[0]}` | {a:.2f} | `{names[1]}` | {b:.2f} | {difference:+.2f} |", flush=True)
    return 0
