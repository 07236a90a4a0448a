"""Parameter groups, what decays and what learns more slowly, and the optimiser over them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from backbone.norm import BATCH_NORM
from detection.config import SolverConfig

NORMS = (BATCH_NORM, nn.GroupNorm)


def parameter_groups(model: nn.Module, weight_decay: float, norm_decay: bool) -> list[dict[str, Any]]:
    """Return the trainable parameters; norms' and biases apart and without decay where ``norm_decay`` is false."""
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
    """Split the parameters of ``modules`` off into groups of their own with the learning rate ``lr``; they come last."""
    chosen = {id(p) for module in modules for p in module.parameters()}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in chosen]} for group in groups]
    slow = [{**group, "params": [p for p in group["params"] if id(p) in chosen], "lr": lr} for group in groups]
    return [group for group in (*rest, *slow) if group["params"]]


def make_optimizer(solver: SolverConfig, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """Return the solver's optimiser, fused into one kernel."""
    if solver.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum=solver.momentum, fused=True)
    return torch.optim.AdamW(groups, lr, fused=True)
