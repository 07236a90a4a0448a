"""The feature pyramid (Lin et al., 2017) on top of a ResNet."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from backbone.features import FeatureSpec
from backbone.resnet import ResNet, Trunk


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a way down by doubling, and 3x3 convolutions; no norms, no rectifiers.

    Args:
        in_channels: of c2, c3, …, finest first.
        channels: of every level.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # these layers have one

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """c2, c3, … to p2, p3, …, each [N, channels, H, W] of its own size, and one more of half the last one's.

        Raises:
            ValueError: a map is not half as large as the one before (the picture was not padded to the coarsest stride).
        """
        levels: list[Tensor] = []
        above: Tensor | None = None
        for lateral, output, x in reversed(list(zip(self.lateral, self.output, maps, strict=True))):
            x = lateral(x)
            if above is not None:
                if x.shape[-2:] != (2 * above.shape[-2], 2 * above.shape[-1]):
                    raise ValueError(
                        f"a pyramid wants maps that halve from level to level, got {tuple(x.shape[-2:])} below "
                        f"{tuple(above.shape[-2:])}; pad the pictures to a multiple of 32"
                    )
                x = x + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = x
            levels.insert(0, output(x))
        # the paper's P6, for the largest anchors alone
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]


class PyramidTrunk(nn.Module):
    """A ResNet, whose parameters it shares, with a pyramid: image [N, 3, H, W] -> p2..p6, strides 4 to 64.

    Height and width must be multiples of ``divisor``.
    """

    divisor = 32

    def __init__(self, net: ResNet, channels: int = 256) -> None:
        super().__init__()
        self.body = Trunk(net, "c5")  # refuses a network of three stages
        below = [net.specs[f"c{i}"] for i in range(2, 6)]
        self.fpn = FPN([spec.channels for spec in below], channels)
        strides = [spec.stride for spec in below] + [2 * below[-1].stride]
        self.specs = [FeatureSpec(channels, stride) for stride in strides]

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.fpn(self.body.maps(x)[1:])
