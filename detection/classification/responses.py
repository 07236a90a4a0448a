"""How strongly a network's layers respond (section 4.2, figure 7)."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbone.blocks import Block
from backbone.norm import FrozenBatchNorm2d
from backbone.resnet import ResNet


def response_layers(net: ResNet) -> dict[str, nn.Module]:
    """The norms behind conv1 and behind every convolution of the residual functions, in order; shortcuts have no part."""
    layers: dict[str, nn.Module] = {"bn1": net.bn1}
    for name, block in net.named_modules():
        if isinstance(block, Block):
            layers |= {f"{name}.{norm}": getattr(block, norm) for norm in block.norms}
    return layers


@torch.no_grad()
def response_deviations(net: ResNet, batches: Iterable[Tensor]) -> dict[str, float]:
    """Standard deviation of each layer's response: behind its norm, before the rectifier and before the sum.

    Args:
        net: in evaluation mode.
        batches: normalised pictures [N, 3, H, W].

    Returns:
        Layer's name -> deviation over all pictures, channels and positions, in the order of the layers.

    Raises:
        ValueError: a norm is folded into its convolution, so that there is no response behind it; or no pictures.
    """
    layers = response_layers(net)
    folded = [name for name, norm in layers.items() if isinstance(norm, FrozenBatchNorm2d)]
    if folded:
        raise ValueError(
            f"responses are read behind the norms, and {folded[0]} is frozen; build the network with norm='bn'"
        )
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in layers}  # of values and their squares, and the count
    hooks = [norm.register_forward_hook(partial(_add, sums[name])) for name, norm in layers.items()]
    try:
        for batch in batches:
            net(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not sums["bn1"][2]:
        raise ValueError("responses want at least one picture")
    return {
        name: float((square / n - (total / n) ** 2).clamp(min=0).sqrt()) for name, (total, square, n) in sums.items()
    }


def _add(to: Tensor, module: nn.Module, args: Any, output: Tensor) -> None:
    values = output.double()
    to += torch.stack((values.sum(), values.square().sum(), values.new_tensor(values.numel()))).cpu()
