"""Batch norms in evaluation mode are affine constants: folded into the convolutions before them, an exported graph has one
layer in place of two, and int8 weights have their true range."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from backbone.norm import FrozenBatchNorm2d

_FOLDED = (nn.BatchNorm2d, FrozenBatchNorm2d)  # these types, no subclasses, which may do more than normalise


@torch.no_grad()
def fold_norms(module: nn.Module, example: Tensor) -> int:
    """Fold batch norms into the convolutions whose output they take, in place; return how many.

    Which norm follows which convolution is seen in a forward pass, so any network's are found. Those of a convolution that
    is called several times stay as they are.

    Args:
        module: in evaluation mode.
        example: its input.
    """
    names = {m: name for name, m in module.named_modules()}
    source: dict[int, nn.Conv2d] = {}
    outputs: list[Tensor] = []  # held, so that no id occurs twice
    calls: dict[nn.Module, int] = {}
    pairs: dict[nn.Conv2d, nn.Module] = {}

    def after_conv(conv: Any, _: Any, output: Tensor) -> None:
        calls[conv] = calls.get(conv, 0) + 1
        source[id(output)] = conv
        outputs.append(output)

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[norm] = calls.get(norm, 0) + 1
        if (conv := source.get(id(inputs[0]))) is not None:
            pairs[conv] = norm

    handles = [m.register_forward_hook(after_conv) for m in names if type(m) is nn.Conv2d]
    handles += [m.register_forward_pre_hook(before_norm) for m in names if type(m) in _FOLDED]
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    pairs = {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}
    for conv, norm in pairs.items():
        _fold(conv, norm)
        parent, _, name = names[norm].rpartition(".")
        setattr(module.get_submodule(parent), name, nn.Identity())
    return len(pairs)


def _fold(conv: nn.Conv2d, norm: Any) -> None:
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        None if conv.bias is None else conv.bias.double(),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        None if norm.weight is None else norm.weight.double(),
        None if norm.bias is None else norm.bias.double(),
    )
    conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
