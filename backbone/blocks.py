"""The two residual blocks of the paper (figure 5) with the projection shortcut, B. Knows norms, not networks."""

from typing import Literal

from torch import Tensor, nn

from backbone.norm import NormFactory, conv_norm

StrideIn = Literal["3x3", "1x1"]


def conv(
    cin: int, cout: int, kernel: int, norm: NormFactory, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution that keeps the map's size at stride 1; it has a bias only where no norm follows."""
    padding = dilation * (kernel // 2)
    bias = isinstance(norm(cout), nn.Identity)
    return nn.Conv2d(cin, cout, kernel, stride, padding, dilation, groups, bias=bias)


def shortcut(cin: int, cout: int, stride: int, norm: NormFactory) -> nn.Sequential | None:
    """Option B of the paper: a 1x1 projection where the size changes, else None for the identity."""
    if stride == 1 and cin == cout:
        return None
    return nn.Sequential(conv(cin, cout, 1, norm, stride), norm(cout))


class Block(nn.Module):
    """What both blocks share: ``relu(branch(x) + shortcut(x))``. ``downsample`` is torchvision's name for the shortcut."""

    expansion: int
    relu: nn.ReLU
    downsample: nn.Sequential | None

    def branch(self, x: Tensor) -> Tensor:
        """The residual function F(x) up to and with its last norm."""
        raise TypeError(f"{type(self).__name__} must define branch(x)")

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        if self.downsample is not None:
            projection, norm = self.downsample
            identity = conv_norm(projection, norm, x)  # type: ignore[arg-type]  # Sequential yields plain Modules
        out = self.branch(x)
        out += identity
        return self.relu(out)


class BasicBlock(Block):
    """Two 3x3 convolutions; the stride sits in the first.

    Args:
        cin: input channels.
        width: channels of both convolutions and of the output.
        stride: of the block.
        dilation: of the 3x3 convolutions (torchvision refuses it here; the definition is the bottleneck's).
        groups, width_per_group: must be 1 and 64: the paper's widening is the bottleneck's alone.
        stride_in: accepted for one signature with Bottleneck; a basic block has only 3x3 convolutions.
        norm: channels -> norm layer.
    """

    expansion = 1

    def __init__(
        self,
        cin: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        width_per_group: int,
        stride_in: StrideIn,
        norm: NormFactory,
    ) -> None:
        super().__init__()
        if groups != 1 or width_per_group != 64:
            raise ValueError(
                f"a BasicBlock has groups=1 and width_per_group=64, got {groups} and {width_per_group}; "
                "take a network of bottlenecks (50 layers and more)"
            )
        self.conv1 = conv(cin, width, 3, norm, stride, dilation)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, norm, 1, dilation)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(cin, width, stride, norm)

    def branch(self, x: Tensor) -> Tensor:
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        return conv_norm(self.conv2, self.bn2, out)


class Bottleneck(Block):
    """1x1, 3x3, 1x1 with four times the width going out.

    Args:
        cin: input channels.
        width: the stage's base width (64, 128, 256, 512); the output has 4 x width channels.
        stride: of the block.
        dilation: of the 3x3 convolution.
        groups, width_per_group: ResNeXt's cardinality and wide networks; 1 and 64 give the paper's.
        stride_in: "1x1" as in the paper and MSRA's weights, "3x3" as torchvision trains ("v1.5").
        norm: channels -> norm layer.
    """

    expansion = 4

    def __init__(
        self,
        cin: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        width_per_group: int,
        stride_in: StrideIn,
        norm: NormFactory,
    ) -> None:
        super().__init__()
        mid = int(width * (width_per_group / 64.0)) * groups
        cout = width * self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = conv(cin, mid, 1, norm, stride_1x1)
        self.bn1 = norm(mid)
        self.conv2 = conv(mid, mid, 3, norm, stride_3x3, dilation, groups)
        self.bn2 = norm(mid)
        self.conv3 = conv(mid, cout, 1, norm)
        self.bn3 = norm(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(cin, cout, stride, norm)

    def branch(self, x: Tensor) -> Tensor:
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        out = self.relu(conv_norm(self.conv2, self.bn2, out))
        return conv_norm(self.conv3, self.bn3, out)
