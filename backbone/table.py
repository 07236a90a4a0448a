"""The paper's table 1 for any of its networks: map sizes, strides, receptive fields, parameters and multiply-adds, from each
layer's own numbers and without a forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from backbone.blocks import Block
from backbone.resnet import ResNet


@dataclass(frozen=True)
class Layer:
    """One layer on the way of an image through a network.

    Attributes:
        name: the module's, as in the state dict.
        stage: "conv1", "conv2_x", … or "fc".
        kernel, stride: of a square window; 1 and 1 for the classifier.
        size: height and width of the output map.
        channels: of the output.
        parameters: weights and biases, its norm's too.
        macs: multiply-adds of convolutions and of the classifier for one image; norms, sums and pooling are not counted
            (as in the paper's table).
        receptive_field: side in input pixels of what one output value can depend on, before it is cut at the edges.
        step: input pixels between two output values.
    """

    name: str
    stage: str
    kernel: int
    stride: int
    size: tuple[int, int]
    channels: int
    parameters: int
    macs: int
    receptive_field: int
    step: int


@dataclass(frozen=True)
class Stage:
    """A row of the table: what a stage's last layer gives, and the sums over its layers."""

    name: str
    blocks: str
    size: tuple[int, int]
    channels: int
    stride: int
    receptive_field: int
    parameters: int
    macs: int


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil: bool = False) -> int:
    """``O = floor((I - K + 2P) / S) + 1``, K the window with its holes; with ``ceil`` rounded up (Caffe's pooling), unless
    the last window would begin beyond the input and its padding at the left."""
    free = size + 2 * padding - (dilation * (kernel - 1) + 1)
    if not ceil:
        return free // stride + 1
    rounded = -(-free // stride) + 1
    return rounded - 1 if (rounded - 1) * stride >= size + padding else rounded


@dataclass(frozen=True)
class _Map:
    """A map on its way: its size, and what one of its values sees."""

    size: tuple[int, int]
    field: int
    step: int

    def after(self, window: nn.Conv2d | nn.MaxPool2d) -> "_Map":
        kernel, stride, padding, dilation = (_side(getattr(window, k)) for k in _WINDOW)
        ceil = isinstance(window, nn.MaxPool2d) and window.ceil_mode
        height, width = (output_size(side, kernel, stride, padding, dilation, ceil) for side in self.size)
        if min(height, width) < 1:
            raise ValueError(f"an image of this size has no pixels left for a window of {kernel}: take a larger one")
        return _Map((height, width), self.field + dilation * (kernel - 1) * self.step, self.step * stride)


_WINDOW = ("kernel_size", "stride", "padding", "dilation")


def _side(value: int | tuple[int, ...] | str) -> int:
    if isinstance(value, tuple):
        value = value[0]
    if isinstance(value, str):
        raise TypeError(f"padding must be a number, got {value!r}")
    return value


def layers(net: ResNet, size: tuple[int, int]) -> list[Layer]:
    """The network's layers for an input of ``size`` (height, width), in the order in which an image meets them; a
    projection shortcut comes after its block's branch.

    Raises:
        ValueError: the input is too small for the network.
    """
    found = [_conv_layer("conv1", "conv1", net.conv1, net.bn1, _Map(size, 1, 1))]
    at = _Map(size, 1, 1).after(net.conv1)
    if isinstance(net.maxpool, nn.MaxPool2d):
        # the paper lists the pooling as the first line of conv2_x
        at = at.after(net.maxpool)
        kernel, stride = _side(net.maxpool.kernel_size), _side(net.maxpool.stride)
        channels = net.conv1.out_channels
        found.append(Layer("maxpool", "conv2_x", kernel, stride, at.size, channels, 0, 0, at.field, at.step))
    for i, stage in enumerate(net.stages):
        for b, block in enumerate(stage):
            assert isinstance(block, Block)
            name, before = f"layer{i + 1}.{b}", at
            for conv, norm in _branch(block):
                module = getattr(block, conv)
                found.append(_conv_layer(f"{name}.{conv}", f"conv{i + 2}_x", module, getattr(block, norm), at))
                at = at.after(module)
            if isinstance(block.downsample, nn.Sequential):
                projection, norm_module = block.downsample
                assert isinstance(projection, nn.Conv2d)
                found.append(_conv_layer(f"{name}.downsample", f"conv{i + 2}_x", projection, norm_module, before))
    inputs, outputs = net.fc.in_features, net.fc.out_features
    field = at.field + at.step * (max(at.size) - 1)  # the mean over the whole map
    found.append(Layer("fc", "fc", 1, 1, (1, 1), outputs, _count(net.fc), inputs * outputs, field, at.step))
    return found


def table(net: ResNet, size: tuple[int, int]) -> list[Stage]:
    """The layers of :func:`layers` summed by stage, without a sum over all."""
    rows = []
    for name, group in groupby(layers(net, size), key=lambda layer: layer.stage):
        members = list(group)
        last = [layer for layer in members if not layer.name.endswith("downsample")][-1]
        number = name.removeprefix("conv").removesuffix("_x")
        blocks = _describe(net.stages[int(number) - 2]) if name.endswith("_x") else _window(last)
        parameters, macs = sum(m.parameters for m in members), sum(m.macs for m in members)
        rows.append(Stage(name, blocks, last.size, last.channels, last.step, last.receptive_field, parameters, macs))
    return rows


def _branch(block: Block) -> Iterator[tuple[str, str]]:
    for norm in block.norms:
        yield norm.replace("bn", "conv"), norm


def _conv_layer(name: str, stage: str, conv: nn.Conv2d, norm: nn.Module, before: _Map) -> Layer:
    after, kernel = before.after(conv), _side(conv.kernel_size)
    height, width = after.size
    macs = kernel**2 * (conv.in_channels // conv.groups) * conv.out_channels * height * width
    parameters = _count(conv) + _count(norm)
    stride = _side(conv.stride)
    return Layer(name, stage, kernel, stride, after.size, conv.out_channels, parameters, macs, after.field, after.step)


def _count(module: nn.Module) -> int:
    """Parameters, and those of a frozen norm, which are buffers: a network counts the same whether it is frozen or not."""
    named = [(k, v) for k, v in (*module.named_parameters(), *module.named_buffers()) if k in ("weight", "bias")]
    return sum(value.numel() for _, value in named)


def _window(layer: Layer) -> str:
    if layer.stage == "fc":
        return f"mean, {layer.channels}-way"
    return f"{layer.kernel}x{layer.kernel}, {layer.channels}" + (f", /{layer.stride}" if layer.stride > 1 else "")


def _describe(stage: nn.Sequential) -> str:
    block = stage[0]
    assert isinstance(block, Block)
    convs = [getattr(block, conv) for conv, _ in _branch(block)]
    inside = " · ".join(f"{_side(c.kernel_size)}x{_side(c.kernel_size)}, {c.out_channels}" for c in convs)
    return f"[{inside}] x {len(stage)}"
