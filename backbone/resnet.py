"""The residual networks of the paper's table 1, its plain and CIFAR-10 nets, ResNeXt and wide ones, and the split into
trunk and conv5_x.

Key names are torchvision's (conv1, bn1, layer1..layer4, fc), so its weights load strictly; conv2_x of the paper is
layer1, conv5_x is layer4.
"""

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbone.blocks import BasicBlock, Block, Bottleneck, Shortcut, StrideIn
from backbone.features import FeatureSpec
from backbone.norm import BATCH_NORM, FrozenBatchNorm2d, NormFactory, NormName, conv_norm, norm_factory
from backbone.recipe import StemPool

OutputStride = Literal[32, 16, 8]
_STAGE_WIDTHS = (64, 128, 256, 512)
_POOLS: dict[str, Callable[[], nn.Module]] = {
    "pad1": lambda: nn.MaxPool2d(3, 2, 1),
    "ceil": lambda: nn.MaxPool2d(3, 2, 0, ceil_mode=True),
    "none": nn.Identity,
}
# the statistics of these belong to a batch; in a frozen part they become constants


class ResNet(nn.Module):
    """A residual network with a classifier on top.

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks in conv2_x, conv3_x, …; four for ImageNet's nets, three for CIFAR-10's.
        num_classes: outputs of the classifier.
        widths: of the stages, one a depth; a bottleneck gives four times as many channels.
        norm: "bn", "frozen_bn", "sync_bn", "gn", "none", or a callable channels -> module.
        conv5_norm: the same for conv5_x alone; None means ``norm``. A frozen trunk under a conv5_x that learns from
            scratch needs a norm that learns.
        shortcut: "B" (projections where sizes change), "A" (zero padding), "C" (projections throughout), or "none" for
            a plain net.
        stride_in: "3x3" (torchvision's) or "1x1" (the paper's, MSRA's and detectron2's): where a bottleneck strides.
        stem_pool: "pad1", or "ceil" for Caffe's rule (no padding, sizes rounded up), or "none" for no pooling.
        stem_width, stem_kernel, stem_stride: of conv1 (64, 7 and 2; CIFAR-10's nets 16, 3 and 1).
        output_stride: 32, or 16 or 8 to dilate the last stages instead; as in torchvision the first dilated block keeps
            the old dilation.
        replace_stride_with_dilation: the same stage by stage, a truth value for each but the first (torchvision's
            keyword); excludes ``output_stride``.
        dilate_first: the first block of a dilated stage has the new dilation too (detectron2's DC5).
        freeze_at: 0..1 + stages; 1 freezes conv1, 2 also conv2_x, and so on (detectron2's counting). Batch norms in there
            become FrozenBatchNorm2d.
        in_channels: of the input.
        groups, width_per_group: of the bottlenecks (ResNeXt, wide).
        bottleneck_widths: channels of the bottlenecks' 3x3 convolutions, one a stage, in place of what ``groups`` and
            ``width_per_group`` give.
        zero_init_residual: every block begins as its shortcut: the branch's last norm has weight 0.

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
        depths: Sequence[int],
        num_classes: int = 1000,
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

        reached = stem_stride
        specs = {"c1": FeatureSpec(stem_width, reached)}
        if stem_pool != "none":
            reached *= 2
        if replace_stride_with_dilation is None:
            replace_stride_with_dilation = [reached * 2**i > output_stride for i in range(1, stages)]
        elif output_stride != 32:
            raise ValueError("output_stride and replace_stride_with_dilation say the same thing: give one of them")
        _check_count("replace_stride_with_dilation", replace_stride_with_dilation, stages - 1)
        cin, dilation = stem_width, 1
        for i, depth in enumerate(depths):
            stride = 1 if i == 0 else 2
            previous = dilation
            if i and replace_stride_with_dilation[i - 1]:
                stride, dilation = 1, dilation * 2
            reached *= stride
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
            specs[f"c{i + 2}"] = FeatureSpec(cin, reached)

        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(cin, num_classes)
        self.specs: dict[str, FeatureSpec] = specs
        self._initialise(zero_init_residual)
        for part in _parts(self)[:freeze_at]:
            for module in part:
                module.requires_grad_(False)

    @property
    def stages(self) -> list[nn.Sequential]:
        """conv2_x, conv3_x, …"""
        return [getattr(self, f"layer{i}") for i in range(1, len(self.specs))]

    def _initialise(self, zero_residual: bool) -> None:
        """He et al.'s initialisation for rectifiers, as torchvision applies it (fan out)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif zero_residual and isinstance(module, Block):
                scale = getattr(getattr(module, module.norms[-1]), "weight", None)
                if scale is None:
                    raise ValueError("zero_init_residual needs norms with a weight, and these have none")
                nn.init.zeros_(scale)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The maps c1 (the stem before pooling), c2, … of a normalised image [N, C, H, W], finest first."""
        maps = {"c1": stem(self, x)}
        x = self.maxpool(maps["c1"])
        for i, stage in enumerate(self.stages):
            x = maps[f"c{i + 2}"] = stage(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of a normalised image [N, C, H, W]."""
        *_, x = self.features(x).values()
        return self.fc(torch.flatten(self.avgpool(x), 1))


def stem(net: "ResNet | Trunk", x: Tensor) -> Tensor:
    """conv1 with its norm and rectifier: [N, 64, ceil(H / 2), ceil(W / 2)]."""
    return net.relu(conv_norm(net.conv1, net.bn1, x))


class Trunk(nn.Module):
    """A ResNet up to one of its stages, sharing its parameters: image [N, 3, H, W] -> [N, C, ceil(H/S), ceil(W/S)].

    Args:
        net: the network.
        last: name of the map that it ends with; ``spec`` describes that map.
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
        """c1 (the stem before pooling), c2, … up to the last."""
        found = [stem(self, x)]
        x = self.maxpool(found[0])
        for i in range(1, self.count + 1):
            x = getattr(self, f"layer{i}")(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(stem(self, x))
        for i in range(1, self.count + 1):  # without a hold on the maps before
            x = getattr(self, f"layer{i}")(x)
        return x


class Conv5(nn.Module):
    """conv5_x of a ResNet, sharing its parameters: RoI features [R, C4, S, S] -> [R, C5, S/2, S/2].

    ``spec.stride`` counts image pixels per step, as everywhere: half the trunk's resolution at stride 32.

    Args:
        net: the network.
        strided: False for regions of which every second row and column was left out already, [R, C4, S/2, S/2]: the same
            result where the stride is in 1x1 convolutions, which look at nothing else.

    Raises:
        ValueError: not strided, and a 3x3 convolution has the stride.
    """

    def __init__(self, net: ResNet, strided: bool = True) -> None:
        super().__init__()
        self.layer4 = net.layer4 if strided else _without_stride(net.layer4)
        self.spec = net.specs["c5"]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x)


def strides_in_1x1(stage: nn.Sequential) -> bool:
    """Whether a stage halves its map by 1x1 convolutions alone, so that three of four points of the map do not count."""
    strided = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
    return bool(strided) and all(m.kernel_size == (1, 1) and m.stride == (2, 2) for m in strided)


def _without_stride(stage: nn.Sequential) -> nn.Sequential:
    """The stage with stride 1; modules without a stride and all parameters are shared, the stage itself stays as it is."""
    if not strides_in_1x1(stage):
        raise ValueError("only a stage that strides in its 1x1 convolutions can do without the stride")

    def twin(module: nn.Module) -> nn.Module:
        if not any(isinstance(m, nn.Conv2d) and m.stride != (1, 1) for m in module.modules()):
            return module
        other = copy.copy(module)  # with the same tables of parameters and buffers
        other._modules = {name: twin(child) for name, child in module._modules.items() if child is not None}
        if isinstance(other, nn.Conv2d):
            other.stride = (1, 1)
        return other

    found = twin(stage)
    assert isinstance(found, nn.Sequential)
    return found


def split_c4(net: ResNet) -> tuple[Trunk, Conv5]:
    """The network split behind conv4_x, as the ResNet paper's appendix A uses it for detection.

    Both parts share the network's parameters and keep its key names; the classifier stays behind.

    Raises:
        ValueError: the network has no conv5_x.
    """
    if len(net.stages) != 4:
        raise ValueError(f"the split wants conv2_x to conv5_x, and this network has {len(net.stages)} stages")
    return Trunk(net), Conv5(net)


def _parts(net: ResNet) -> list[list[nn.Module]]:
    parts: list[list[nn.Module]] = [[net.conv1, net.bn1]]
    return parts + [[stage] for stage in net.stages]


def _frozen(norm: NormFactory) -> NormFactory:
    return FrozenBatchNorm2d if isinstance(norm(32), BATCH_NORM) else norm


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _check_count(name: str, values: Sequence[Any], wanted: int) -> None:
    if len(values) != wanted:
        raise ValueError(f"{name} must have {wanted} values for these depths, got {len(values)}: {tuple(values)}")


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

    def build(num_classes: int = 1000, **options: Any) -> ResNet:
        return ResNet(block, depths, num_classes, groups=groups, width_per_group=width_per_group, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name} with blocks {depths}; ``options`` are the keywords of :class:`ResNet`."
    return build


def _plain_factory(name: str, residual: str) -> Callable[..., ResNet]:
    def build(num_classes: int = 1000, **options: Any) -> ResNet:
        _check_plain(name, options)
        return FACTORIES[residual](num_classes, **(options | {"shortcut": "none"}))

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"The layers of {residual} without its shortcuts (figure 3, middle)."
    return build


def _check_plain(name: str, options: dict[str, Any]) -> None:
    if options.get("shortcut", "none") != "none":
        raise ValueError(f"{name} has no shortcuts, got shortcut={options['shortcut']!r}; take the residual network")


def cifar_resnet(depth: int, plain: bool = False, num_classes: int = 10, **options: Any) -> ResNet:
    """The paper's networks for CIFAR-10 (section 4.2): a 3x3 conv1 of 16 channels, then three stages of (depth - 2) / 6
    blocks with 16, 32 and 64 channels at 32, 16 and 8 px, and shortcuts A.

    Args:
        depth: 6n + 2: 20, 32, 44, 56, 110, 1202.
        plain: without the shortcuts.
        num_classes: outputs of the classifier.
        options: other keywords of :class:`ResNet`.

    Raises:
        ValueError: another depth.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise ValueError(f"the depth must be 6n + 2 (20, 32, 44, 56, 110, 1202), got {depth}")
    if plain:
        _check_plain(f"cifar_plain{depth}", options)
    shape: dict[str, Any] = {"widths": (16, 32, 64), "stem_width": 16, "stem_kernel": 3, "stem_stride": 1}
    shape |= {"stem_pool": "none", "shortcut": "none" if plain else "A"}
    return ResNet(BasicBlock, (n, n, n), num_classes, **(shape | options))


FACTORIES: dict[str, Callable[..., ResNet]] = {name: _factory(name) for name in _TABLE}
FACTORIES |= {name: _plain_factory(name, residual) for name, residual in _PLAIN.items()}
_CIFAR = {f"cifar_{kind}{depth}": (depth, kind == "plain") for kind in ("resnet", "plain") for depth in _CIFAR_DEPTHS}
RESIDUAL_NAMES = tuple(_TABLE)  # of four stages, with shortcuts
NAMES = (*FACTORIES, *_CIFAR)


def network(name: str, **options: Any) -> ResNet:
    """The network of a name: those of torchvision, plain18, plain34, cifar_resnet20 to cifar_plain1202.

    Raises:
        ValueError: no such network; names the nearest.
    """
    if name in _CIFAR:
        depth, plain = _CIFAR[name]
        return cifar_resnet(depth, plain, **options)
    if name not in FACTORIES:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no network {name!r}; {hint}There are {', '.join(NAMES)}")
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
