"""How long the commands take to say anything, beside the imports that they cannot do without."""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import machine

_TRAIN = str(Path(__file__).parents[1] / "train_net.py")
# what is measured, what it is held against
_PAIRS = (
    (("-c", "import backbone"), ("-c", "import torch")),
    ((_TRAIN, "--help"), ("-c", "import torch, torchvision")),
)


def run(args: argparse.Namespace) -> int:
    print(
        f"{machine()}\n\n| command | seconds (median) | beside | seconds | more (pair by pair) |\n|---|---|---|---|---|"
    )
    for ours, other in _PAIRS:
        took: tuple[list[float], list[float]] = ([], [])
        for turn in range(args.repeat + 1):
            for command, times in zip((ours, other), took, strict=True):
                began = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
                if turn:  # the first fills the disk's cache
                    times.append(time.perf_counter() - began)
        more = statistics.median(a - b for a, b in zip(*took, strict=True))
        names = [" ".join(Path(word).name if word is _TRAIN else word for word in command) for command in (ours, other)]
        a, b = (statistics.median(times) for times in took)
        print(f"| `{names[0]}` | {a:.2f} | `{names[1]}` | {b:.2f} | {more:+.2f} |", flush=True)
    return 0
