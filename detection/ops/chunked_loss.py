"""Losses that are sums over rows, a part of the rows at a time: each part's gradient is taken before the next part begins,
so that only one part's activations are ever held. Knows autograd, not what the losses are."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# which rows -> a vector of losses, each a sum over those rows
PartLosses = Callable[[slice], Tensor]


def chunked_backward(losses: PartLosses, rows: int, at_once: int, inputs: Sequence[Tensor]) -> Tensor:
    """``losses(slice(0, rows))``, and its gradients, to rounding; the activations are those of ``at_once`` rows.

    Args:
        losses: treats each row by itself (no batch statistics).
        rows: their number.
        at_once: rows of a part.
        inputs: all tensors that want a gradient of these losses: maps, parameters.

    Returns:
        The vector of losses. Its gradient can be taken once. Where all losses have the same weight in the total, as in a
        plain sum, it is there already; otherwise the parts are gone through a second time.
    """
    total: Tensor = _InParts.apply(losses, rows, at_once, *inputs)
    return total


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: PartLosses, rows: int, at_once: int, *inputs: Tensor) -> Tensor:
        device = inputs[0].device.type
        half, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

        def again(weight: Tensor | None) -> tuple[Tensor, list[Tensor]]:
            with torch.autocast(device, dtype, enabled=half):  # also where the gradient is taken outside of it
                return _run(losses, rows, at_once, inputs, weight)

        ctx.again = again
        total, ctx.gradients = ctx.again(None)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradient of losses in parts can be taken once; run the model again")
        if not bool((weight == weight[0]).all()):
            _, gradients = ctx.again(weight)
        elif weight[0] != 1:
            for gradient in gradients:
                gradient.mul_(weight[0])
        return None, None, None, *gradients


def _run(
    losses: PartLosses, rows: int, at_once: int, inputs: Sequence[Tensor], weight: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """The losses, and the gradients of their weighted sum."""
    # sums of many half precision gradients would lose the small ones
    sums = [torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in inputs]
    total: Tensor | None = None
    for begin in range(0, rows, at_once):
        with torch.enable_grad():
            part = losses(slice(begin, min(begin + at_once, rows)))
            weighted = part.sum() if weight is None else (part * weight).sum()
        for gradient, share in zip(sums, torch.autograd.grad(weighted, inputs, allow_unused=True), strict=True):
            if share is not None:
                gradient += share
        total = part.detach() if total is None else total + part.detach()
    assert total is not None, "no rows"
    return total, [gradient.to(x.dtype) for gradient, x in zip(sums, inputs, strict=True)]
