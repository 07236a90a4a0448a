"""Norms of the gradients that are propagated back to each layer, with and without shortcuts and batch norms (ResNet paper,
sections 4.1 and 4.2: plain networks with batch norms have healthy gradients, so it is not vanishing that degrades them)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.resnet import ResNet, network


def gradient_layers(net: ResNet) -> dict[str, nn.Module]:
    """Return conv1 and the convolutions of the residual branches, in order, without shortcuts."""
    layers: dict[str, nn.Module] = {"conv1": net.conv1}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and "downsample" not in name and name != "conv1":
            layers[name] = module
    return layers


def gradient_norms(net: ResNet, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the norm of the loss' gradient with respect to the output of each convolution, by the layer's name.

    Args:
        net: in training mode; its parameters' gradients and its norms' running statistics are as before afterwards.
        images: normalised [N, C, H, W].
        labels: int64 [N]; the loss is the mean cross-entropy.
    """
    norms: dict[str, float] = {}
    layers = gradient_layers(net)
    hooks = [layer.register_forward_hook(partial(_record, norms, name)) for name, layer in layers.items()]
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        loss = F.cross_entropy(net(images), labels)
        torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad])
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])
    return {name: norms[name] for name in layers}


def _record(norms: dict[str, float], name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    def keep(gradient: Tensor) -> None:
        norms[name] = float(gradient.norm())

    output.register_hook(keep)
    return output.clone()  # a ReLU in place behind it would otherwise be part of the output


def variants(name: str, **options: Any) -> dict[str, ResNet]:
    """Return a network as it is defined, and without its shortcuts, its norms, and both, by what it is; the same seed makes
    their first weights the same.

    Args:
        name: of the network.
        options: keyword arguments of :class:`backbone.resnet.ResNet`.

    Raises:
        ValueError: the network is a plain one, which has no shortcuts to leave out.
    """
    if "plain" in name:
        raise ValueError(f"{name} has no shortcuts: give the residual network, which is shown without them too")
    nets = {}
    for norm, with_norm in (("bn", "with batch norm"), ("none", "without norms")):
        for shortcut, kind in ((None, "shortcuts"), ("none", "plain")):
            torch.manual_seed(0)
            chosen = {"shortcut": shortcut} if shortcut else {}
            nets[f"{kind}, {with_norm}"] = network(name, **{**options, "norm": norm, **chosen}).train()
    return nets


def summarise(norms: dict[str, float]) -> Sequence[float]:
    """Return the norm at the first layer and at the last, and the first one's share of the last."""
    first, *_, last = norms.values()
    return first, last, first / last if last else float("nan")
