"""The feature pyramid (Lin et al., 2017) on top of a backbone."""

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from backbone.features import FeatureSpec, FeatureTrunk, feature_specs
from backbone.resnet import ResNet, Trunk


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down pathway with 2x upsampling, and 3x3 convolutions; without norms and ReLUs.

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
        """Compute p2, p3, … from c2, c3, …, each [N, channels, H, W] of its own size, and one more of half the last's.

        Raises:
            ValueError: a map is not half as large as the one before (the image was not padded to the coarsest stride).
        """
        levels: list[Tensor] = []
        above: Tensor | None = None
        for lateral, output, x in reversed(list(zip(self.lateral, self.output, maps, strict=True))):
            x = lateral(x)
            if above is not None:
                if x.shape[-2:] != (2 * above.shape[-2], 2 * above.shape[-1]):
                    raise ValueError(
                        f"a pyramid wants maps that halve from level to level, got {tuple(x.shape[-2:])} below "
                        f"{tuple(above.shape[-2:])}; pad the images to a multiple of the coarsest stride"
                    )
                x = x + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = x
            levels.insert(0, output(x))
        # the paper's P6, for the largest anchors alone
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]


class PyramidTrunk(nn.Module):
    """A backbone, whose parameters it shares, with a pyramid: image [N, 3, H, W] -> p2, p3, … and one level more.

    Height and width must be multiples of ``divisor``, the coarsest of the backbone's strides.

    Args:
        net: a ResNet, or any module with ``specs`` whose strides double from map to map.
        channels: of every level.

    Raises:
        ValueError: a ResNet of three stages, fewer than two maps, or strides that do not double.
    """

    def __init__(self, net: nn.Module, channels: int = 256) -> None:
        super().__init__()
        # a ResNet's c1 is left out; Trunk refuses a network of three stages
        self.body: Trunk | FeatureTrunk
        if isinstance(net, ResNet):
            self.body = Trunk(net, "c5")
            below = [net.specs[f"c{i}"] for i in range(2, 6)]
        else:
            specs = {name: spec for name, spec in feature_specs(net).items() if spec.stride >= 4}
            self.body = FeatureTrunk(net, list(specs))
            below = list(specs.values())
        strides = [spec.stride for spec in below]
        if len(below) < 2 or any(b != 2 * a for a, b in itertools.pairwise(strides)):
            raise ValueError(
                f"a pyramid wants two maps or more whose strides double, from 4 on; {type(net).__name__} has {strides}"
            )
        self.divisor = strides[-1]
        self.fpn = FPN([spec.channels for spec in below], channels)
        self.specs = [FeatureSpec(channels, stride) for stride in (*strides, 2 * strides[-1])]

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.fpn(self.body.maps(x)[-len(self.specs) + 1 :])
