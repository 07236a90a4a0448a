"""``resdet inspect``: print a network's feature map sizes, parameters and multiply-adds; plot its layer responses or
gradients."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from backbone.blocks import Shortcut, StrideIn
from backbone.resnet import NAMES, OutputStride, network
from backbone.table import table
from detection.classification.inspection import inspect_gradients, inspect_responses, print_table
from detection.utils.atomic_io import require_new


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="inspect_backbone.py",
        description="Print each stage of a network: feature map size, stride, receptive field, parameters, multiply-adds. "
        "With --responses, plot the standard deviations of layer responses of trained networks; with --gradients, the "
        "gradients of a new one.",
        epilog=f"networks: {', '.join(NAMES)}",
        allow_abbrev=False,
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="with --responses: the network of files whose metadata does not name it"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        help="input size in pixels: side, or height and width (default: 224; CIFAR networks 32)",
    )
    parser.add_argument("--shortcut", choices=get_args(Shortcut), help="default: the network's")
    parser.add_argument(
        "--stride-in", choices=get_args(StrideIn), default="3x3", help="bottleneck convolution with the stride"
    )
    parser.add_argument("--stem-pool", choices=("pad1", "ceil", "none"), help="default: the network's")
    parser.add_argument("--output-stride", type=int, choices=get_args(OutputStride), default=32)
    parser.add_argument("--classes", type=int, help="outputs of the classifier (default: 1000; CIFAR networks 10)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    responses = parser.add_argument_group("responses")
    responses.add_argument(
        "--responses", type=Path, nargs="+", metavar="FILE", help="best.pth of classifiers, or other classifier weights"
    )
    responses.add_argument(
        "--pictures", type=Path, nargs="+", metavar="INPUT", help="image files and folders (default: validation images "
        "of each file's run)",
    )  # fmt: skip
    responses.add_argument("--count", type=int, help="maximum number of images (default: 512; of gradients 16)")
    responses.add_argument("--output", type=Path, help="default: responses.png, gradients.png")
    parser.add_argument(
        "--gradients",
        action="store_true",
        help="plot the gradient at each layer of NAME before training, with and without its shortcuts and its norms",
    )
    args = parser.parse_args(argv)
    if args.responses and args.gradients:
        parser.error("--responses is of trained networks, --gradients of a new one: give one of them")
    sides = args.size or [32 if str(args.name).startswith("cifar") else 224]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(
            f"--size expects a side, or height and width, each at least 1, got {' '.join(map(str, sides))}"
        )
    if args.responses:
        output = args.output or Path("responses.png")
        require_new([output], "--output FILE")
        return inspect_responses(args.responses, args.name, args.pictures, _count(args, 512), output, as_json=args.json)
    if args.name is None:
        parser.error("expected NAME, or --responses FILE …")
    arguments = {"shortcut": args.shortcut, "stem_pool": args.stem_pool, "num_classes": args.classes}
    options = {k: v for k, v in arguments.items() if v is not None}
    if args.gradients:
        output = args.output or Path("gradients.png")
        require_new([output], "--output FILE")
        return inspect_gradients(
            args.name,
            (sides[0], sides[-1]),
            args.pictures,
            _count(args, 16),
            output,
            as_json=args.json,
            stride_in=args.stride_in,
            output_stride=args.output_stride,
            **options,
        )
    with torch.device("meta"):  # shapes only, without computation
        net = network(args.name, stride_in=args.stride_in, output_stride=args.output_stride, **options)
    rows = table(net, (sides[0], sides[-1]))
    if args.json:
        print(
            json.dumps(
                {"name": args.name, "size": [sides[0], sides[-1]], "stages": [dataclasses.asdict(r) for r in rows]}
            )
        )
    else:
        print_table(args.name, (sides[0], sides[-1]), rows)
    return 0


def _count(args: argparse.Namespace, default: int) -> int:
    return default if args.count is None else int(args.count)
