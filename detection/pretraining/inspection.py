"""``resdet inspect``: the paper's table 1 for any network and input size."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from backbone.blocks import Shortcut, StrideIn
from backbone.resnet import NAMES, OutputStride, network
from backbone.table import Stage, table


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="inspect_backbone.py",
        description="Print a network stage by stage: map size, stride, receptive field, parameters, multiply-adds.",
        epilog=f"networks: {', '.join(NAMES)}",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        help="input in pixels: a side, or height and width (default: 224, or 32)",
    )
    parser.add_argument("--shortcut", choices=get_args(Shortcut), help="default: the network's own")
    parser.add_argument("--stride-in", choices=get_args(StrideIn), default="3x3", help="where a bottleneck strides")
    parser.add_argument("--stem-pool", choices=("pad1", "ceil", "none"), help="default: the network's own")
    parser.add_argument("--output-stride", type=int, choices=get_args(OutputStride), default=32)
    parser.add_argument("--classes", type=int, help="outputs of the classifier (default: 1000, or 10)")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    args = parser.parse_args(argv)
    given = {"shortcut": args.shortcut, "stem_pool": args.stem_pool, "num_classes": args.classes}
    options = {k: v for k, v in given.items() if v is not None}
    with torch.device("meta"):  # sizes alone; nothing is computed
        net = network(args.name, stride_in=args.stride_in, output_stride=args.output_stride, **options)
    sides = args.size or [32 if args.name.startswith("cifar") else 224]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(f"--size wants a side, or height and width, each at least 1, got {' '.join(map(str, sides))}")
    rows = table(net, (sides[0], sides[-1]))
    if args.json:
        print(
            json.dumps(
                {"name": args.name, "size": [sides[0], sides[-1]], "stages": [dataclasses.asdict(r) for r in rows]}
            )
        )
    else:
        show(args.name, (sides[0], sides[-1]), rows)
    return 0


def show(name: str, size: tuple[int, int], rows: Sequence[Stage]) -> None:
    """Prints the table with its sums."""
    columns = ("map", "channels", "stride", "sees (px)", "parameters", "multiply-adds")
    drawn = Table(show_footer=True)
    drawn.add_column("stage", "sum")
    drawn.add_column("layers", no_wrap=True)
    parameters, macs = sum(r.parameters for r in rows), sum(r.macs for r in rows)
    for column in columns:
        total = {"parameters": f"{parameters:,}", "multiply-adds": _count(macs)}.get(column, "")
        drawn.add_column(column, total, justify="right")
    for row in rows:
        numbers = (
            _size(row.size),
            row.channels,
            row.stride,
            row.receptive_field,
            f"{row.parameters:,}",
            _count(row.macs),
        )
        drawn.add_row(row.name, row.blocks, *map(str, numbers))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(f"{name} on {_size(size)}", drawn, sep="\n")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _count(macs: int) -> str:
    return f"{macs / 1e9:.3f} G" if macs >= 1e8 else f"{macs / 1e6:.2f} M"
