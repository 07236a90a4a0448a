"""Shortcut A in other people's files: channels padded with zeros on both sides, where this package pads behind.

The two forms have the same tensors, and a network with the wrong one is near chance (77 % error on CIFAR-10 instead of 8 %).
The batch norms of a trained network tell them apart: a block's output has, channel by channel, the mean that its shortcut
gives it, and the convolution after it turns these means into the running means of its norm.
"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["behind", "both", "none"]
_FACTOR = 3.0  # of a form's misfit over the best one's from which on it is excluded; trained networks: 17 to 30
_BLOCK = re.compile(r"layer(\d)\.(\d{1,4})\.conv1\.weight")


def pads_both_sides(tensors: Mapping[str, Tensor], undecided: bool) -> bool:
    """Return whether a network of basic blocks without projections was trained with channels padded on both sides.

    Args:
        tensors: of the network, under torchvision's names.
        undecided: the answer where the statistics do not tell, as for a network that was not trained.
    """
    blocks = _blocks(tensors)
    if blocks is None:
        return False
    try:
        misfits = {form: _misfit(tensors, blocks, form) for form in ("behind", "both", "none")}
    except RuntimeError:  # shapes that do not go together, which loading names
        return False
    best = min(misfits, key=lambda form: misfits[form])
    if all(misfits[form] >= _FACTOR * misfits[best] for form in misfits if form != best):
        return best == "both"
    return undecided


def pad_behind(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reorder the channels of a network whose shortcuts pad on both sides, so that it computes the same padded behind.

    Args:
        tensors: of a network for which :func:`pads_both_sides` holds.
    """
    blocks = _blocks(tensors)
    assert blocks is not None
    result = dict(tensors)

    def reorder(name: str, dim: int, order: Tensor) -> None:
        if name in result:
            result[name] = result[name].index_select(dim, order)

    orders = [torch.arange(len(tensors["conv1.weight"]))]  # of each stage's output; the stem's is the first
    for stage, count in enumerate(blocks, 1):
        cin, cout = len(orders[-1]), len(tensors[f"layer{stage}.0.conv2.weight"])
        before = (cout - cin) // 2
        order = torch.cat((orders[-1] + before, torch.arange(before), torch.arange(before + cin, cout)))
        for b in range(count):
            reorder(f"layer{stage}.{b}.conv1.weight", 1, order if b else orders[-1])
            reorder(f"layer{stage}.{b}.conv2.weight", 0, order)
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                reorder(f"layer{stage}.{b}.bn2.{tensor}", 0, order)
        orders.append(order)
    reorder("fc.weight", 1, orders[-1])
    return result


def _blocks(tensors: Mapping[str, Tensor]) -> list[int] | None:
    """Return the number of blocks of each stage; None unless the network has basic blocks with batch norms, no projections,
    and stages of more channels than the ones before."""
    found = [(int(match[1]), int(match[2])) for match in map(_BLOCK.fullmatch, tensors) if match]
    counts = [
        max((b + 1 for s, b in found if s == stage), default=0) for stage in range(1, 1 + max(found, default=(0, 0))[0])
    ]
    names = [f"layer{stage}.{b}." for stage, count in enumerate(counts, 1) for b in range(count)]
    layers = ("bn1.running_mean", "bn1.running_var", "conv2.weight", "bn2.weight", "bn2.bias")
    needed = ["conv1.weight", "bn1.weight", "bn1.bias", *(name + layer for name in names for layer in layers)]
    others = ("conv3.", "downsample.")
    if not counts or any(name not in tensors for name in needed):
        return None
    if any(name.partition(".")[2].partition(".")[2].startswith(others) for name in tensors):
        return None
    widths = [
        len(tensors["conv1.weight"]),
        *(len(tensors[f"layer{s}.0.conv2.weight"]) for s in range(1, len(counts) + 1)),
    ]
    if any(tensors[name].dim() != 4 for name in needed if "conv" in name):
        return None
    grows = all(a <= b and (b - a) % 2 == 0 for a, b in itertools.pairwise(widths))
    return counts if grows and widths[0] < widths[-1] else None


def _misfit(tensors: Mapping[str, Tensor], blocks: list[int], form: Form) -> float:
    """Return how far from the running means of the norms behind it a shortcut's form predicts them: a mean of squares in
    units of the running variances."""

    def get(name: str) -> Tensor:
        return tensors[name].double()

    mean, variance = _relu(get("bn1.bias"), get("bn1.weight").square())
    squares = []
    for stage, count in enumerate(blocks, 1):
        for b in range(count):
            block = f"layer{stage}.{b}."
            if stage > 1 and b:  # behind a stage's first block, which pads
                predicted = get(block + "conv1.weight").sum(dim=(2, 3)) @ mean
                error = (predicted - get(block + "bn1.running_mean")).square()
                squares.append((error / get(block + "bn1.running_var").clamp(min=1e-12)).mean())
            weight, bias = get(block + "bn2.weight"), get(block + "bn2.bias")
            added = len(weight) - len(mean)
            padding = (added // 2, added - added // 2) if form == "both" else (0, added)
            shortcut = 0.0 if form == "none" else 1.0
            # a batch norm's output has its bias as mean and its weight as deviation
            mean, variance = _relu(
                bias + shortcut * F.pad(mean, padding), weight.square() + shortcut * F.pad(variance, padding)
            )
    return float(torch.stack(squares).mean()) if squares else 0.0


def _relu(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a ReLU's output for normally distributed input."""
    deviation = variance.clamp(min=1e-12).sqrt()
    z = mean / deviation
    below = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    first = mean * below + deviation * density
    second = (mean.square() + variance) * below + mean * deviation * density
    return first, (second - first.square()).clamp(min=0)
