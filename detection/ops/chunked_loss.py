"""Losses that are sums over rows, a chunk of the rows at a time: each chunk's gradient is taken before the next chunk
begins, so that only one chunk's activations are ever held. Knows autograd, not what the losses are.

For a loss L = Σ_r l(r, w), the gradient is dL/dw = Σ_chunks d(Σ_{r in chunk} l(r, w))/dw. With 512 regions in chunks of 64,
conv5_x's activations for 64 regions are held, not for 512; the eight gradients are added up in float32:

    rows   0..63   forward, backward, gradients = g1
    rows  64..127  forward, backward, gradients = g1 + g2
    …
    the sum is handed to autograd when the backward pass of the whole model reaches the losses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# which rows -> a vector of losses, each a sum over those rows
ChunkLosses = Callable[[slice], Tensor]


def chunked_backward(losses: ChunkLosses, rows: int, chunk_size: int, inputs: Sequence[Tensor]) -> Tensor:
    """Compute ``losses(slice(0, rows))`` and its gradients, to rounding, with the activations of ``chunk_size`` rows.

    Args:
        losses: treats each row by itself (no batch statistics).
        rows: their number.
        chunk_size: rows of a chunk.
        inputs: all tensors that need a gradient of these losses: maps, parameters.

    Returns:
        The vector of losses. Its gradient can be taken once. Where all losses have the same weight in the total, as in a
        plain sum, it is there already; otherwise the chunks are computed a second time.
    """
    total: Tensor = _Chunked.apply(losses, rows, chunk_size, *inputs)
    return total


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: ChunkLosses, rows: int, chunk_size: int, *inputs: Tensor) -> Tensor:
        device = inputs[0].device.type
        half, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

        def again(weight: Tensor | None) -> tuple[Tensor, list[Tensor]]:
            with torch.autocast(device, dtype, enabled=half):  # also where the gradient is taken outside of it
                return _run(losses, rows, chunk_size, inputs, weight)

        ctx.again = again
        total, ctx.gradients = ctx.again(None)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradient of chunked losses can be taken once; run the model again")
        if not bool((weight == weight[0]).all()):
            _, gradients = ctx.again(weight)
        elif weight[0] != 1:
            for gradient in gradients:
                gradient.mul_(weight[0])
        return None, None, None, *gradients


def _run(
    losses: ChunkLosses, rows: int, chunk_size: int, inputs: Sequence[Tensor], weight: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Return the losses, and the gradients of their weighted sum."""
    # sums of many half precision gradients would lose the small ones
    sums = [torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in inputs]
    total: Tensor | None = None
    for begin in range(0, rows, chunk_size):
        with torch.enable_grad():
            chunk = losses(slice(begin, min(begin + chunk_size, rows)))
            weighted = chunk.sum() if weight is None else (chunk * weight).sum()
        for total_gradient, gradient in zip(
            sums, torch.autograd.grad(weighted, inputs, allow_unused=True), strict=True
        ):
            if gradient is not None:
                total_gradient += gradient
        total = chunk.detach() if total is None else total + chunk.detach()
    assert total is not None, "no rows"
    return total, [gradient.to(x.dtype) for gradient, x in zip(sums, inputs, strict=True)]
