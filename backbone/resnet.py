"""ResNets of the paper's table 1, its plain and CIFAR-10 networks, ResNeXt and Wide ResNet, and the split into trunk and
conv5_x.

Key names are torchvision's (conv1, bn1, layer1..layer4, fc), so its weights load strictly; conv2_x of the paper is
layer1, conv5_x is layer4.
"""

import copy
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbone.blocks import BasicBlock, Block, Bottleneck, Shortcut, StrideIn
from backbone.features import FeatureSpec
from backbone.norm import BATCH_NORM, FrozenBatchNorm2d, NormFactory, NormName, conv_norm, norm_factory
from backbone.pretrained import UNSET, build_pretrained
from backbone.recipe import Recipe, StemPool

OutputStride = Literal[32, 16, 8]
_WEIGHTS_DOC = (
    "``num_classes=None`` leaves the classifier out. ``weights``, a file, torchvision://NAME or detectron2://PATH, are "
    "loaded: the network then has their classes and their recipe (attribute ``recipe``), unless arguments say otherwise."
)
_STAGE_WIDTHS = (64, 128, 256, 512)
_POOLS: dict[str, Callable[[], nn.Module]] = {
    "pad1": lambda: nn.MaxPool2d(3, 2, 1),
    "ceil": lambda: nn.MaxPool2d(3, 2, 0, ceil_mode=True),
    "none": nn.Identity,
}


class ResNet(nn.Module):
    """A residual network with a classifier.

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks in conv2_x, conv3_x, …; four stages for ImageNet networks, three for CIFAR-10.
        num_classes: outputs of the classifier; None has none, and the network returns pooled features.
        widths: base channels of each stage; a bottleneck outputs four times as many.
        norm: "bn", "frozen_bn", "sync_bn", "gn", "none", or a callable channels -> module.
        conv5_norm: the same for conv5_x alone; None means ``norm``. A conv5_x that is trained from scratch on a frozen
            trunk needs a trainable norm.
        shortcut: "B" (projections where sizes change), "A" (zero padding), "C" (projections throughout), or "none" for
            a plain network.
        stride_in: "3x3" (torchvision's) or "1x1" (the paper's, MSRA's and detectron2's): the convolution of a
            bottleneck that has the stride.
        stem_pool: "pad1", or "ceil" for Caffe's rule (no padding, sizes rounded up), or "none" for no pooling.
        stem_width, stem_kernel, stem_stride: channels, kernel size and stride of conv1 (64, 7, 2; for CIFAR-10 16, 3, 1).
        output_stride: 32, or 16 or 8 to dilate the last stages instead; as in torchvision the first dilated block keeps
            the old dilation.
        replace_stride_with_dilation: the same per stage, one bool for each but the first (torchvision's keyword);
            excludes ``output_stride``.
        dilate_first: the first block of a dilated stage uses the new dilation too (detectron2's DC5).
        freeze_at: 0..1 + stages; 1 freezes conv1, 2 also conv2_x, and so on (detectron2's counting). Batch norms in
            frozen stages become FrozenBatchNorm2d.
        in_channels: channels of the input.
        groups, width_per_group: of the bottlenecks' 3x3 convolutions (ResNeXt, Wide ResNet).
        bottleneck_widths: channels of the bottlenecks' 3x3 convolutions, one per stage, instead of those computed from
            ``groups`` and ``width_per_group``.
        zero_init_residual: initialise the weight of each branch's last norm to 0, so that a block starts as its shortcut.

    Raises:
        ValueError: an argument is not one of the choices above.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    recipe: Recipe | None = None  # of the weights it was built with (backbone/pretrained.py)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        num_classes: int | None = 1000,
        *,
        widths: Sequence[int] = _STAGE_WIDTHS,
        norm: NormName | NormFactory = "bn",
        conv5_norm: NormName | NormFactory | None = None,
        shortcut: Shortcut = "B",
        stride_in: StrideIn = "3x3",
        stem_pool: StemPool | Literal["none"] = "pad1",
        stem_width: int = 64,
        stem_kernel: int = 7,
        stem_stride: int = 2,
        output_stride: OutputStride = 32,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        dilate_first: bool = False,
        freeze_at: int = 0,
        in_channels: int = 3,
        groups: int = 1,
        width_per_group: int = 64,
        bottleneck_widths: Sequence[int] | None = None,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        stages = len(depths)
        _check_choice("shortcut", shortcut, ("B", "A", "C", "none"))
        _check_choice("stride_in", stride_in, ("3x3", "1x1"))
        _check_choice("stem_pool", stem_pool, ("pad1", "ceil", "none"))
        _check_choice("output_stride", output_stride, (32, 16, 8))
        _check_choice("freeze_at", freeze_at, range(stages + 2))
        if bottleneck_widths is None:
            bottleneck_widths = [int(width * width_per_group / 64) * groups for width in widths]
        _check_count("widths", widths, stages)
        _check_count("bottleneck_widths", bottleneck_widths, stages)
        self.stride_in: StrideIn = stride_in
        self.stem_pool = stem_pool
        self.in_channels = in_channels
        self.freeze_at = freeze_at
        norms = [norm_factory(norm)] * (stages + 1)
        if conv5_norm is not None:
            norms[-1] = norm_factory(conv5_norm)
        norms = [_frozen(n) if i < freeze_at else n for i, n in enumerate(norms)]

        self.conv1 = nn.Conv2d(
            in_channels,
            stem_width,
            stem_kernel,
            stem_stride,
            stem_kernel // 2,
            bias=isinstance(norms[0](stem_width), nn.Identity),
        )
        self.bn1 = norms[0](stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _POOLS[stem_pool]()

        total_stride = stem_stride
        specs = {"c1": FeatureSpec(stem_width, total_stride)}
        if stem_pool != "none":
            total_stride *= 2
        if replace_stride_with_dilation is None:
            replace_stride_with_dilation = [total_stride * 2**i > output_stride for i in range(1, stages)]
        elif output_stride != 32:
            raise ValueError("output_stride and replace_stride_with_dilation are mutually exclusive: set one of them")
        _check_count("replace_stride_with_dilation", replace_stride_with_dilation, stages - 1)
        cin, dilation = stem_width, 1
        for i, depth in enumerate(depths):
            stride = 1 if i == 0 else 2
            previous = dilation
            if i and replace_stride_with_dilation[i - 1]:
                stride, dilation = 1, dilation * 2
            total_stride *= stride
            blocks = []
            for b in range(depth):
                blocks.append(
                    block(
                        cin,
                        widths[i],
                        bottleneck_widths[i],
                        stride=stride if b == 0 else 1,
                        dilation=previous if b == 0 and not dilate_first else dilation,
                        groups=groups,
                        stride_in=stride_in,
                        shortcut=shortcut,
                        norm=norms[i + 1],
                    )
                )
                cin = widths[i] * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            specs[f"c{i + 2}"] = FeatureSpec(cin, total_stride)

        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Identity() if num_classes is None else nn.Linear(cin, num_classes)
        self.specs: dict[str, FeatureSpec] = specs
        self._initialise(zero_init_residual)
        for stage_modules in _modules_by_stage(self)[:freeze_at]:
            for module in stage_modules:
                module.requires_grad_(False)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages conv2_x, conv3_x, …"""
        return [getattr(self, f"layer{i}") for i in range(1, len(self.specs))]

    def _initialise(self, zero_residual: bool) -> None:
        """Initialise convolutions with He et al.'s normal initialisation for ReLU, fan-out mode, as torchvision does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif zero_residual and isinstance(module, Block):
                scale = getattr(getattr(module, module.norms[-1]), "weight", None)
                if scale is None:
                    raise ValueError("zero_init_residual requires normalisation layers with a weight")
                nn.init.zeros_(scale)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature maps c1 (the stem before pooling), c2, … of normalised images [N, C, H, W], finest first."""
        maps = {"c1": stem(self, x)}
        x = self.maxpool(maps["c1"])
        for i, stage in enumerate(self.stages):
            x = maps[f"c{i + 2}"] = stage(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, num_classes] of normalised images [N, C, H, W]; without a classifier the last map's mean
        over all positions, [N, specs["c5"].channels]."""
        *_, x = self.features(x).values()
        return self.fc(torch.flatten(self.avgpool(x), 1))


def stem(net: "ResNet | Trunk", x: Tensor) -> Tensor:
    """Apply conv1, its norm and ReLU: [N, C, H, W] -> [N, 64, ceil(H / 2), ceil(W / 2)]."""
    return net.relu(conv_norm(net.conv1, net.bn1, x))


class Trunk(nn.Module):
    """A ResNet up to one of its stages, sharing its parameters: images [N, 3, H, W] -> [N, C, ceil(H/S), ceil(W/S)].

    Args:
        net: the network.
        last: name of the output feature map; ``spec`` describes it.
    """

    def __init__(self, net: ResNet, last: str = "c4") -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        if last not in list(net.specs)[1:]:
            raise ValueError(f"last must be one of {', '.join(list(net.specs)[1:])}, got {last!r}")
        self.count = int(last.removeprefix("c")) - 1
        for i in range(1, self.count + 1):
            self.add_module(f"layer{i}", getattr(net, f"layer{i}"))
        self.spec = net.specs[last]
        self.stride_in, self.stem_pool = net.stride_in, net.stem_pool

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps c1 (the stem before pooling), c2, … up to the last."""
        maps = [stem(self, x)]
        x = self.maxpool(maps[0])
        for i in range(1, self.count + 1):
            x = getattr(self, f"layer{i}")(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(stem(self, x))
        for i in range(1, self.count + 1):  # keeps no reference to earlier maps
            x = getattr(self, f"layer{i}")(x)
        return x


class Conv5(nn.Module):
    """conv5_x of a ResNet, sharing its parameters: RoI features [R, C4, S, S] -> [R, C5, S/2, S/2].

    ``spec.stride`` is relative to the image, as everywhere: 32 is half the trunk's resolution.

    Args:
        net: the network.
        strided: False for RoI features that are already subsampled by 2, [R, C4, S/2, S/2]: the same result where the
            stride is in 1x1 convolutions, which read no other positions.

    Raises:
        ValueError: ``strided`` is False, and a 3x3 convolution has the stride.
    """

    def __init__(self, net: ResNet, strided: bool = True) -> None:
        super().__init__()
        self.layer4 = net.layer4 if strided else _without_stride(net.layer4)
        self.spec = net.specs["c5"]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x)


def strides_in_1x1(stage: nn.Sequential) -> bool:
    """Return whether a stage downsamples in 1x1 convolutions only, so that three of four input positions are unused."""
    strided = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
    return bool(strided) and all(m.kernel_size == (1, 1) and m.stride == (2, 2) for m in strided)


def _without_stride(stage: nn.Sequential) -> nn.Sequential:
    """Return a copy of the stage with stride 1 that shares all parameters, and modules without a stride, with it."""
    if not strides_in_1x1(stage):
        raise ValueError("strided=False requires a stage whose stride is in its 1x1 convolutions")

    def copy_with_stride_1(module: nn.Module) -> nn.Module:
        if not any(isinstance(m, nn.Conv2d) and m.stride != (1, 1) for m in module.modules()):
            return module
        clone = copy.copy(module)  # a shallow copy, which shares parameters and buffers
        clone._modules = {n: copy_with_stride_1(child) for n, child in module._modules.items() if child is not None}
        if isinstance(clone, nn.Conv2d):
            clone.stride = (1, 1)
        return clone

    result = copy_with_stride_1(stage)
    assert isinstance(result, nn.Sequential)
    return result


def split_c4(net: ResNet) -> tuple[Trunk, Conv5]:
    """Split a network after conv4_x, as in the ResNet paper's appendix A for detection.

    Both modules share the network's parameters and keep its key names; the classifier is dropped.

    Raises:
        ValueError: the network has no conv5_x.
    """
    if len(net.stages) != 4:
        raise ValueError(f"split_c4 expects a network with conv2_x to conv5_x, this one has {len(net.stages)} stages")
    return Trunk(net), Conv5(net)


def _modules_by_stage(net: ResNet) -> list[list[nn.Module]]:
    stages: list[list[nn.Module]] = [[stage] for stage in net.stages]
    return [[net.conv1, net.bn1], *stages]


def _frozen(norm: NormFactory) -> NormFactory:
    return FrozenBatchNorm2d if isinstance(norm(32), BATCH_NORM) else norm


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _check_count(name: str, values: Sequence[Any], expected: int) -> None:
    if len(values) != expected:
        raise ValueError(f"{name} must have {expected} values for these depths, got {len(values)}: {tuple(values)}")


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
DEPTHS = {name: depths for name, (_, depths, _, _) in _TABLE.items()}  # blocks of each stage
_CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
_PLAIN = {"plain18": "resnet18", "plain34": "resnet34"}


def _factory(name: str) -> Callable[..., ResNet]:
    block, depths, groups, width_per_group = _TABLE[name]

    def construct(num_classes: int | None = 1000, **options: Any) -> ResNet:
        return ResNet(block, depths, num_classes, groups=groups, width_per_group=width_per_group, **options)

    doc = f"Build {name} with {depths} blocks; ``options`` are keyword arguments of :class:`ResNet`."
    return _documented(construct, name, doc)


def _documented(construct: Callable[..., ResNet], name: str, doc: str) -> Callable[..., ResNet]:
    """Return ``construct`` as a factory of that name, which also loads weights."""

    def build(num_classes: Any = UNSET, *, weights: str | Path | None = None, **options: Any) -> ResNet:
        return _filled(construct, num_classes, weights, options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{doc} {_WEIGHTS_DOC}"
    return build


def _filled(
    construct: Callable[..., ResNet], num_classes: Any, weights: str | Path | None, options: dict[str, Any]
) -> ResNet:
    if weights is not None:
        return build_pretrained(construct, weights, num_classes, options)
    return construct(**({} if num_classes is UNSET else {"num_classes": num_classes}), **options)


def _plain_factory(name: str, residual: str) -> Callable[..., ResNet]:
    def construct(num_classes: int | None = 1000, **options: Any) -> ResNet:
        _check_plain(name, options)
        return FACTORIES[residual](num_classes, **(options | {"shortcut": "none"}))

    return _documented(construct, name, f"Build {residual} without its shortcuts (He et al., figure 3, middle).")


def _check_plain(name: str, options: dict[str, Any]) -> None:
    if options.get("shortcut", "none") != "none":
        raise ValueError(f"{name} has no shortcuts, got shortcut={options['shortcut']!r}; use the residual network")


def cifar_resnet(
    depth: int, plain: bool = False, num_classes: Any = UNSET, *, weights: str | Path | None = None, **options: Any
) -> ResNet:
    """Build the paper's network for CIFAR-10 (section 4.2): a 3x3 conv1 with 16 channels, then three stages of
    (depth - 2) / 6 basic blocks with 16, 32 and 64 channels at 32, 16 and 8 px, and shortcut A.

    Args:
        depth: 6n + 2: 20, 32, 44, 56, 110, 1202.
        plain: whether to leave out the shortcuts.
        num_classes: outputs of the classifier (10, or those of ``weights``); None has none.
        weights: a file of the network's weights; its recipe is the network's attribute ``recipe``.
        options: other keyword arguments of :class:`ResNet`.

    Raises:
        ValueError: the depth is not 6n + 2.
    """
    n, remainder = divmod(depth - 2, 6)
    if remainder or n < 1:
        raise ValueError(f"the depth must be 6n + 2 (20, 32, 44, 56, 110, 1202), got {depth}")
    if plain:
        _check_plain(f"cifar_plain{depth}", options)
    shape: dict[str, Any] = {"widths": (16, 32, 64), "stem_width": 16, "stem_kernel": 3, "stem_stride": 1}
    shape |= {"stem_pool": "none", "shortcut": "none" if plain else "A"}

    def construct(num_classes: int | None = 10, **options: Any) -> ResNet:
        return ResNet(BasicBlock, (n, n, n), num_classes, **(shape | options))

    return _filled(construct, num_classes, weights, options)


FACTORIES: dict[str, Callable[..., ResNet]] = {name: _factory(name) for name in _TABLE}
FACTORIES |= {name: _plain_factory(name, residual) for name, residual in _PLAIN.items()}
_CIFAR = {f"cifar_{kind}{depth}": (depth, kind == "plain") for kind in ("resnet", "plain") for depth in _CIFAR_DEPTHS}
RESIDUAL_NAMES = tuple(_TABLE)  # of four stages, with shortcuts
NAMES = (*FACTORIES, *_CIFAR)


def network(name: str, **options: Any) -> ResNet:
    """Build a network by name: torchvision's ResNets, plain18, plain34, cifar_resnet20 to cifar_plain1202.

    Raises:
        ValueError: unknown name; suggests the closest.
    """
    if name in _CIFAR:
        depth, plain = _CIFAR[name]
        return cifar_resnet(depth, plain, **options)
    if name not in FACTORIES:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown network {name!r}; {hint}available: {', '.join(NAMES)}")
    return FACTORIES[name](**options)


resnet18 = FACTORIES["resnet18"]
resnet34 = FACTORIES["resnet34"]
resnet50 = FACTORIES["resnet50"]
resnet101 = FACTORIES["resnet101"]
resnet152 = FACTORIES["resnet152"]
plain18 = FACTORIES["plain18"]
plain34 = FACTORIES["plain34"]
resnext50_32x4d = FACTORIES["resnext50_32x4d"]
resnext101_32x8d = FACTORIES["resnext101_32x8d"]
resnext101_64x4d = FACTORIES["resnext101_64x4d"]
wide_resnet50_2 = FACTORIES["wide_resnet50_2"]
wide_resnet101_2 = FACTORIES["wide_resnet101_2"]
