"""``resdet replay``: repeat a training step whose losses were non-finite, and name the first non-finite layers."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from detection.checkpoint.metadata import KEY
from detection.training.replay import replay


def main(argv: Sequence[str] | None = None) -> int:
    """Print the losses of a saved step, and the first modules whose output is non-finite."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path, help="the not_finite.pth of a run's folder")
    parser.add_argument("--precision", choices=["float32", "bf16", "fp16"], help="default: the run's")
    args = parser.parse_args(argv)
    if not args.file.exists():
        raise FileNotFoundError(f"no file {args.file}: expected the not_finite.pth that training wrote")
    content = torch.load(args.file, map_location="cpu", weights_only=True)
    if KEY not in content or "seed" not in content:
        raise ValueError(
            f"{args.file} does not contain a training step: expected the not_finite.pth that training wrote"
        )
    losses, non_finite = replay(content, args.precision)
    print(f"step {content['step']}, {args.precision or content['precision']}")
    print("images: " + ", ".join(content["files"]))
    for name, value in losses.items():
        print(f"{name:18} {value:<12.6g} (in training {content['losses'][name]:.6g})")
    for line in non_finite:
        print(line)
    if not non_finite and all(map(torch.isfinite, map(torch.tensor, losses.values()))):
        print("all values are finite: precision or device may differ from training")
    return 0
