"""The two residual blocks of the paper (figure 5) with its shortcuts A, B and C, or none."""

import contextlib
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbone.norm import NormFactory, conv_norm, has_hooks, unchanged_statistics

StrideIn = Literal["3x3", "1x1"]
Shortcut = Literal["B", "A", "C", "none"]


def conv(
    cin: int, cout: int, kernel: int, norm: NormFactory, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution with "same" padding at stride 1; it has a bias only if no norm follows."""
    padding = dilation * (kernel // 2)
    bias = isinstance(norm(cout), nn.Identity)
    return nn.Conv2d(cin, cout, kernel, stride, padding, dilation, groups, bias=bias)


class ZeroPad(nn.Module):
    """Shortcut A of the paper: subsample by ``stride`` and pad new channels with zeros; no parameters."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        if cout < cin:
            raise ValueError(f"shortcut A cannot reduce channels from {cin} to {cout}; use B")
        self.added, self.stride = cout - cin, stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad: [N, cin, H, W] -> [N, cout, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))

    def extra_repr(self) -> str:
        return f"added={self.added}, stride={self.stride}"


def make_shortcut(kind: Shortcut, cin: int, cout: int, stride: int, norm: NormFactory) -> nn.Module | None:
    """Return the shortcut's module, None for the identity (section 3.3): A pads with zeros and B projects (1x1) where the
    size changes; C always projects."""
    if kind == "none" or (kind != "C" and stride == 1 and cin == cout):
        return None
    if kind == "A":
        return ZeroPad(cin, cout, stride)
    return nn.Sequential(conv(cin, cout, 1, norm, stride), norm(cout))


class Block(nn.Module):
    """Base class of both blocks: ``relu(branch(x) + shortcut(x))``. ``downsample`` is torchvision's name for the shortcut.

    Args:
        cin: input channels.
        width: base channels of the stage; the output has ``expansion`` times as many.
        mid: channels of a bottleneck's 3x3 convolution; must equal ``width`` for a basic block.
        stride: of the block.
        dilation: of the 3x3 convolutions (torchvision does not support it for basic blocks; defined as for bottlenecks).
        groups: of a bottleneck's 3x3 convolution (ResNeXt).
        stride_in: "1x1" as in the paper and MSRA's weights, "3x3" as torchvision trains ("v1.5"); a basic block has
            the stride in its first convolution.
        shortcut: A, B or C of the paper, or "none" for its plain networks: ``relu(branch(x))``.
        norm: channels -> norm layer.
    """

    expansion: int
    norms: tuple[str, ...]  # names of the branch's norms, in order
    relu: nn.ReLU
    downsample: nn.Module | None
    plain: bool
    checkpointed = False  # checkpoint_blocks

    def branch(self, x: Tensor) -> Tensor:
        """Compute the residual function F(x), including its last norm."""
        raise TypeError(f"{type(self).__name__} must define branch(x)")

    def forward(self, x: Tensor) -> Tensor:
        if not (self.checkpointed and torch.is_grad_enabled()):
            return self._compute(x)
        # nothing random in a block; norms update their statistics in the first pass alone
        result: Tensor = checkpoint(
            self._compute,
            x,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (contextlib.nullcontext(), unchanged_statistics(self)),
        )
        return result

    def _compute(self, x: Tensor) -> Tensor:
        if self.plain:
            return self.relu(self.branch(x))
        identity = x
        if type(self.downsample) is nn.Sequential and len(self.downsample) == 2 and not has_hooks(self.downsample):
            projection, norm = self.downsample
            identity = conv_norm(projection, norm, x)  # type: ignore[arg-type]  # Sequential yields plain Modules
        elif self.downsample is not None:
            identity = self.downsample(x)
        out = self.branch(x)
        out += identity
        return self.relu(out)


class BasicBlock(Block):
    """Two 3x3 convolutions; arguments as in :class:`Block`.

    Raises:
        ValueError: ``groups`` is not 1 or ``mid`` is not ``width``; only bottlenecks support them.
    """

    expansion = 1
    norms = ("bn1", "bn2")

    def __init__(
        self,
        cin: int,
        width: int,
        mid: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        stride_in: StrideIn,
        shortcut: Shortcut,
        norm: NormFactory,
    ) -> None:
        super().__init__()
        if groups != 1 or mid != width:
            raise ValueError(
                f"a BasicBlock requires groups=1 and mid=width, got groups={groups} and mid={mid} for width={width}; "
                "use a network with bottlenecks (50 layers and more)"
            )
        self.conv1 = conv(cin, width, 3, norm, stride, dilation)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, norm, 1, dilation)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_shortcut(shortcut, cin, width, stride, norm)
        self.plain = shortcut == "none"

    def branch(self, x: Tensor) -> Tensor:
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        return conv_norm(self.conv2, self.bn2, out)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions with 4 * width output channels; arguments as in :class:`Block`."""

    expansion = 4
    norms = ("bn1", "bn2", "bn3")

    def __init__(
        self,
        cin: int,
        width: int,
        mid: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        stride_in: StrideIn,
        shortcut: Shortcut,
        norm: NormFactory,
    ) -> None:
        super().__init__()
        cout = width * self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = conv(cin, mid, 1, norm, stride_1x1)
        self.bn1 = norm(mid)
        self.conv2 = conv(mid, mid, 3, norm, stride_3x3, dilation, groups)
        self.bn2 = norm(mid)
        self.conv3 = conv(mid, cout, 1, norm)
        self.bn3 = norm(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_shortcut(shortcut, cin, cout, stride, norm)
        self.plain = shortcut == "none"

    def branch(self, x: Tensor) -> Tensor:
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        out = self.relu(conv_norm(self.conv2, self.bn2, out))
        return conv_norm(self.conv3, self.bn3, out)


def checkpoint_blocks(module: nn.Module) -> None:
    """Let the residual blocks of a module keep their inputs alone for the backward pass, which computes what is inside them
    again (gradient checkpointing, Chen et al., 2016): less memory for the time of another forward pass, the same gradients.

    Raises:
        ValueError: the module has neither residual blocks of this project nor timm's ``set_grad_checkpointing``.
    """
    blocks = [m for m in module.modules() if isinstance(m, Block)]
    for block in blocks:
        block.checkpointed = True
    if blocks:
        return
    switches = [switch for m in module.modules() if (switch := getattr(m, "set_grad_checkpointing", None)) is not None]
    if not switches:
        raise ValueError(
            f"{type(module).__name__} has no residual blocks, and no set_grad_checkpointing as timm's networks"
        )
    switches[0](True)
