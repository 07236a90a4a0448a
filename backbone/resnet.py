"""The residual networks of the paper's table 1, ResNeXt and wide ones, and their split into trunk and conv5_x.

Key names are torchvision's (conv1, bn1, layer1..layer4, fc), so its weights load strictly; conv2_x of the paper is
layer1, conv5_x is layer4.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbone.blocks import BasicBlock, Bottleneck, StrideIn
from backbone.features import FeatureSpec
from backbone.norm import FrozenBatchNorm2d, NormFactory, NormName, conv_norm, norm_factory
from backbone.recipe import StemPool

OutputStride = Literal[32, 16, 8]
_STEM_WIDTH = 64
_STAGE_WIDTHS = (64, 128, 256, 512)
# the statistics of these belong to a batch; in a frozen part they become constants
_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class ResNet(nn.Module):
    """A residual network with a classifier on top.

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks in conv2_x..conv5_x.
        num_classes: outputs of the classifier.
        norm: "bn", "frozen_bn", "sync_bn", "gn", "none", or a callable channels -> module.
        conv5_norm: the same for conv5_x alone; None means ``norm``. A frozen trunk under a conv5_x that learns from
            scratch needs a norm that learns.
        stride_in: "3x3" (torchvision's) or "1x1" (the paper's, MSRA's and detectron2's): where a bottleneck strides.
        stem_pool: "pad1", or "ceil" for Caffe's rule (no padding, sizes rounded up).
        output_stride: 32, or 16 or 8 to dilate conv5_x (and conv4_x) instead; as in torchvision the first dilated
            block keeps the old dilation.
        freeze_at: 0..5; 1 freezes conv1, 2 also conv2_x, and so on (detectron2's counting). Batch norms in there
            become FrozenBatchNorm2d.
        in_channels: of the input.
        groups, width_per_group: of the bottlenecks (ResNeXt, wide).

    Raises:
        ValueError: an argument outside of the choices above.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        *,
        norm: NormName | NormFactory = "bn",
        conv5_norm: NormName | NormFactory | None = None,
        stride_in: StrideIn = "3x3",
        stem_pool: StemPool = "pad1",
        output_stride: OutputStride = 32,
        freeze_at: int = 0,
        in_channels: int = 3,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        _check_choice("stride_in", stride_in, ("3x3", "1x1"))
        _check_choice("stem_pool", stem_pool, ("pad1", "ceil"))
        _check_choice("output_stride", output_stride, (32, 16, 8))
        _check_choice("freeze_at", freeze_at, range(6))
        self.stride_in: StrideIn = stride_in
        self.stem_pool: StemPool = stem_pool
        self.freeze_at = freeze_at
        norms = [norm_factory(norm)] * 4 + [norm_factory(norm if conv5_norm is None else conv5_norm)]
        norms = [_frozen(n) if i < freeze_at else n for i, n in enumerate(norms)]

        self.conv1 = nn.Conv2d(in_channels, _STEM_WIDTH, 7, 2, 3, bias=isinstance(norms[0](_STEM_WIDTH), nn.Identity))
        self.bn1 = norms[0](_STEM_WIDTH)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem_pool == "pad1" else nn.MaxPool2d(3, 2, 0, ceil_mode=True)

        specs = {"c1": FeatureSpec(_STEM_WIDTH, 2)}
        cin, reached, dilation = _STEM_WIDTH, 4, 1
        for i, (width, depth) in enumerate(zip(_STAGE_WIDTHS, depths, strict=True)):
            stride = 1 if i == 0 else 2
            previous = dilation
            if reached * stride > output_stride:
                stride, dilation = 1, dilation * 2
            reached *= stride
            blocks = []
            for b in range(depth):
                blocks.append(
                    block(
                        cin,
                        width,
                        stride=stride if b == 0 else 1,
                        dilation=previous if b == 0 else dilation,
                        groups=groups,
                        width_per_group=width_per_group,
                        stride_in=stride_in,
                        norm=norms[i + 1],
                    )
                )
                cin = width * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            specs[f"c{i + 2}"] = FeatureSpec(cin, reached)

        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(cin, num_classes)
        self.specs: dict[str, FeatureSpec] = specs
        self._initialise()
        for part in _parts(self)[:freeze_at]:
            for module in part:
                module.requires_grad_(False)

    def _initialise(self) -> None:
        """He et al.'s initialisation for rectifiers, as torchvision applies it (fan out)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The maps c1 (the stem before pooling), c2..c5 of a normalised image [N, C, H, W], finest first."""
        maps = {"c1": stem(self, x)}
        x = self.maxpool(maps["c1"])
        for i in range(1, 5):
            x = maps[f"c{i + 1}"] = getattr(self, f"layer{i}")(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of a normalised image [N, C, H, W]."""
        x = self.features(x)["c5"]
        return self.fc(torch.flatten(self.avgpool(x), 1))


def stem(net: "ResNet | Trunk", x: Tensor) -> Tensor:
    """conv1 with its norm and rectifier: [N, 64, ceil(H / 2), ceil(W / 2)]."""
    return net.relu(conv_norm(net.conv1, net.bn1, x))


class Trunk(nn.Module):
    """conv1..conv4_x of a ResNet, sharing its parameters: image [N, 3, H, W] -> [N, C, ceil(H/16), ceil(W/16)]."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        self.spec = net.specs["c4"]
        self.stride_in, self.stem_pool = net.stride_in, net.stem_pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(stem(self, x))
        return self.layer3(self.layer2(self.layer1(x)))


class Conv5(nn.Module):
    """conv5_x of a ResNet, sharing its parameters: RoI features [R, C4, S, S] -> [R, C5, S/2, S/2].

    ``spec.stride`` counts image pixels per step, as everywhere: half the trunk's resolution at stride 32.
    """

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.layer4 = net.layer4
        self.spec = net.specs["c5"]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x)


def split_c4(net: ResNet) -> tuple[Trunk, Conv5]:
    """The network split behind conv4_x, as the ResNet paper's appendix A uses it for detection.

    Both parts share the network's parameters and keep its key names; the classifier stays behind.
    """
    return Trunk(net), Conv5(net)


def _parts(net: ResNet) -> list[list[nn.Module]]:
    return [[net.conv1, net.bn1], [net.layer1], [net.layer2], [net.layer3], [net.layer4]]


def _frozen(norm: NormFactory) -> NormFactory:
    return FrozenBatchNorm2d if isinstance(norm(32), _BATCH_NORMS) else norm


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


# The depth table (He et al., table 1; ResNeXt; Wide ResNet): block, blocks per stage, groups, width_per_group.
_TABLE: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int], int, int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 1, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": (Bottleneck, (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": (Bottleneck, (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": (Bottleneck, (3, 4, 23, 3), 64, 4),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": (Bottleneck, (3, 4, 23, 3), 1, 128),
}


def _factory(name: str) -> Callable[..., ResNet]:
    block, depths, groups, width_per_group = _TABLE[name]

    def build(num_classes: int = 1000, **options: Any) -> ResNet:
        return ResNet(block, depths, num_classes, groups=groups, width_per_group=width_per_group, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name} with blocks {depths}; ``options`` are the keywords of :class:`ResNet`."
    return build


FACTORIES: dict[str, Callable[..., ResNet]] = {name: _factory(name) for name in _TABLE}
resnet18 = FACTORIES["resnet18"]
resnet34 = FACTORIES["resnet34"]
resnet50 = FACTORIES["resnet50"]
resnet101 = FACTORIES["resnet101"]
resnet152 = FACTORIES["resnet152"]
resnext50_32x4d = FACTORIES["resnext50_32x4d"]
resnext101_32x8d = FACTORIES["resnext101_32x8d"]
resnext101_64x4d = FACTORIES["resnext101_64x4d"]
wide_resnet50_2 = FACTORIES["wide_resnet50_2"]
wide_resnet101_2 = FACTORIES["wide_resnet101_2"]
