"""Parameter groups: what decays, and what learns more slowly."""

from collections.abc import Iterable
from typing import Any

from torch import nn

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)


def parameter_groups(model: nn.Module, weight_decay: float, norm_decay: bool) -> list[dict[str, Any]]:
    """The trainable parameters; norms' and biases apart and without decay where ``norm_decay`` is false."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if norm_decay:
        return [{"params": trainable, "weight_decay": weight_decay}]
    plain = {
        id(p)
        for m in model.modules()
        for name, p in m.named_parameters(recurse=False)
        if isinstance(m, NORMS) or name == "bias"
    }
    return [
        {"params": [p for p in trainable if id(p) not in plain], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in plain], "weight_decay": 0.0},
    ]


def slower(groups: list[dict[str, Any]], modules: Iterable[nn.Module], lr: float) -> list[dict[str, Any]]:
    """Split the parameters of ``modules`` off into groups of their own with the rate ``lr``; they come last."""
    own = {id(p) for module in modules for p in module.parameters()}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in own]} for group in groups]
    slow = [{**group, "params": [p for p in group["params"] if id(p) in own], "lr": lr} for group in groups]
    return [group for group in (*rest, *slow) if group["params"]]
