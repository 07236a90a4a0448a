"""Normalisation layers: frozen batch norm, its folding into a convolution, synchronised batch norm, and norms by name."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as _global

NormName = Literal["bn", "frozen_bn", "sync_bn", "gn", "none"]
NormFactory = Callable[[int], nn.Module]
_GROUPS = 32  # of "gn"
BATCH_NORM = nn.modules.batchnorm._BatchNorm  # the base of all batch norms, synchronised ones included


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are constants, as in the ResNet paper's appendix A.

    The four tensors are buffers under the names of ``torch.nn.BatchNorm2d``, so its state dicts load; the counter
    ``num_batches_tracked`` is ignored. In evaluation mode the output equals ``BatchNorm2d``'s bit for bit.

    Args:
        num_features: channels C of the input [N, C, H, W].
        eps: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each [C] float32: the norm is ``x * scale + shift``."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes in training.

    On GPUs it is torch's ``SyncBatchNorm``. That one does not run on CPUs, nor does DistributedDataParallel accept its
    subclasses there, so on CPUs the same is implemented here. In a single process it is ``BatchNorm2d``.
    """

    process_group = None  # all processes
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Tensor) -> Tensor:
        x = input
        if not self.training or not (dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        if not x.is_cpu:
            return nn.SyncBatchNorm.forward(cast(nn.SyncBatchNorm, self), x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = torch.cat((exact.sum(dim=(0, 2, 3)), exact.new_tensor([x.numel() / x.shape[1]])))
        total = _all_reduce_sum(sums)
        count, mean = total[-1], total[:-1] / total[-1]
        centred = exact - mean[:, None, None]  # E[x^2] - E[x]^2 would lose precision for a small variance
        variance = _all_reduce_sum(centred.square().sum(dim=(0, 2, 3))) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean), momentum)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), momentum)
        normed = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            normed = normed * self.weight[:, None, None] + self.bias[:, None, None]
        return normed.to(x.dtype)


class _AllReduceSum(torch.autograd.Function):
    """Sum a tensor over all processes, with a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # each process's loss depends on every process's input
        (total,) = (gradient.clone() for gradient in gradients)
        dist.all_reduce(total)
        return total


def _all_reduce_sum(x: Tensor) -> Tensor:
    total: Tensor = _AllReduceSum.apply(x)
    return total


@contextlib.contextmanager
def unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Within, batch norms in training update their running statistics; after it these are as they were before."""
    norms = [m for m in module.modules() if isinstance(m, BATCH_NORM) and m.training]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d and SyncBatchNorm of a module by a FrozenBatchNorm2d with the same values.

    Returns:
        The module itself, changed in place; a new module if it is itself a batch norm.

    Raises:
        ValueError: a norm has no running statistics to freeze, or is a subclass, which may do more than normalise (timm's
            BatchNormAct2d also applies an activation).
    """
    return _freeze_norms(module, {})


def _freeze_norms(module: nn.Module, replaced: dict[int, nn.Module]) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        if type(module) not in (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm2d):
            raise ValueError(
                f"{type(module).__name__} is a subclass of batch norm, and cannot be replaced by FrozenBatchNorm2d"
            )
        if module.running_mean is None or module.running_var is None:
            raise ValueError("a batch norm without running statistics cannot be frozen (track_running_stats=False)")
        frozen = FrozenBatchNorm2d(module.num_features, module.eps).to(module.running_mean.device)
        if module.affine:
            frozen.weight, frozen.bias = module.weight.detach().clone(), module.bias.detach().clone()
        frozen.running_mean, frozen.running_var = module.running_mean.clone(), module.running_var.clone()
        return frozen.train(module.training)
    for name, child in module._modules.items():  # not named_children(), which skips a module registered twice
        if child is not None:
            if id(child) not in replaced:
                replaced[id(child)] = _freeze_norms(child, replaced)
            module._modules[name] = replaced[id(child)]
    return module


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Return ``norm(conv(x))``; a frozen norm is folded into the convolution's weight.

    A frozen norm is an affine constant, so scaling the small weight replaces two passes over the map. The gradient
    to ``conv.weight`` passes through the scaling, hence training is the same to rounding (1e-6 relative). Modules with
    hooks, and subclasses, are called: their hooks fire and their own ``forward`` counts.
    """
    if not (
        type(norm) is FrozenBatchNorm2d
        and type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and conv.bias is None
        and not has_hooks(conv)
        and not has_hooks(norm)
    ):
        return norm(conv(x))
    scale, shift = norm.affine()
    weight = conv.weight * scale[:, None, None, None]  # [C_out, C_in, k, k]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def has_hooks(module: nn.Module) -> bool:
    """Return whether calling the module runs more than its ``forward``: its own hooks, or global ones."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _global._global_forward_hooks
        or _global._global_forward_pre_hooks
        or _global._global_backward_hooks
        or _global._global_backward_pre_hooks
        or "forward" in module.__dict__  # replaced on the instance
    )


def _group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm of 32 groups, as its paper has; of as many as there are channels where these are fewer."""
    groups = min(_GROUPS, channels)
    if channels % groups:
        raise ValueError(
            f"norm 'gn' has {_GROUPS} groups, which do not divide {channels} channels: use widths that are multiples of "
            f"{_GROUPS}, another norm (bn), or in Python a callable such as lambda channels: GroupNorm(16, channels)"
        )
    return nn.GroupNorm(groups, channels)


_FACTORIES: dict[str, NormFactory] = {
    "bn": nn.BatchNorm2d,
    "frozen_bn": FrozenBatchNorm2d,
    "sync_bn": SyncBatchNorm2d,
    "gn": _group_norm,
    "none": lambda channels: nn.Identity(),
}


def norm_factory(norm: NormName | NormFactory) -> NormFactory:
    """Return the callable ``channels -> module`` of a norm's name; a callable is returned as it is.

    Raises:
        ValueError: unknown name.
    """
    if callable(norm):
        return norm
    if norm not in _FACTORIES:
        raise ValueError(f"norm must be one of {', '.join(get_args(NormName))} or a callable, got {norm!r}")
    return _FACTORIES[norm]
