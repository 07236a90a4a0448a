"""Standard deviations of layer responses (ResNet paper, section 4.2, figure 7)."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbone.blocks import Block
from backbone.norm import FrozenBatchNorm2d
from backbone.resnet import ResNet


def response_layers(net: ResNet) -> dict[str, nn.Module]:
    """Return the norms after conv1 and after each convolution of the residual branches, in order, without shortcuts."""
    layers: dict[str, nn.Module] = {"bn1": net.bn1}
    for name, block in net.named_modules():
        if isinstance(block, Block):
            layers |= {f"{name}.{norm}": getattr(block, norm) for norm in block.norms}
    return layers


@torch.no_grad()
def response_deviations(net: ResNet, batches: Iterable[Tensor]) -> dict[str, float]:
    """Return the standard deviation of each layer's response: after its norm, before ReLU and addition.

    Args:
        net: in evaluation mode.
        batches: normalised images [N, 3, H, W].

    Returns:
        Standard deviations over all images, channels and positions by layer name, in layer order.

    Raises:
        ValueError: a norm is frozen and folded into its convolution, so that it has no output; or no images.
    """
    layers = response_layers(net)
    folded = [name for name, norm in layers.items() if isinstance(norm, FrozenBatchNorm2d)]
    if folded:
        raise ValueError(
            f"responses are measured after the norms, but {folded[0]} is frozen; build the network with norm='bn'"
        )
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in layers}  # sum, sum of squares, count
    hooks = [norm.register_forward_hook(partial(_accumulate, sums[name])) for name, norm in layers.items()]
    try:
        for batch in batches:
            net(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not sums["bn1"][2]:
        raise ValueError("responses need at least one image")
    return {
        name: float((square / n - (total / n) ** 2).clamp(min=0).sqrt()) for name, (total, square, n) in sums.items()
    }


def _accumulate(sums: Tensor, module: nn.Module, args: Any, output: Tensor) -> None:
    values = output.double()
    sums += torch.stack((values.sum(), values.square().sum(), values.new_tensor(values.numel()))).cpu()
