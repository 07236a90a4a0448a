"""Compute table 1 of the ResNet paper for any network: output sizes, strides, receptive fields, parameters and
multiply-adds, from the layers' attributes and without a forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from backbone.blocks import Block
from backbone.resnet import ResNet


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: of the module, as in the state dict.
        stage: "conv1", "conv2_x", … or "fc".
        kernel, stride: of a square window; 1 and 1 for the classifier.
        size: (height, width) of the output.
        channels: of the output.
        parameters: number of weights and biases, including its norm's.
        macs: multiply-adds of convolutions and the classifier for one image; norms, additions and pooling are not counted
            (as in the paper's table).
        receptive_field: side in input pixels, not clipped to the image.
        step: input pixels between two output values (cumulative stride).
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
    """A row of the table: the output of a stage's last layer, and the totals over its layers."""

    name: str
    blocks: str
    size: tuple[int, int]
    channels: int
    stride: int
    receptive_field: int
    parameters: int
    macs: int


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil: bool = False) -> int:
    """Return ``floor((size - K + 2 * padding) / stride) + 1`` with the dilated kernel size K.

    With ``ceil`` the division is rounded up (Caffe's pooling), unless the last window would start in the right padding.
    """
    span = size + 2 * padding - (dilation * (kernel - 1) + 1)
    if not ceil:
        return span // stride + 1
    rounded = -(-span // stride) + 1
    return rounded - 1 if (rounded - 1) * stride >= size + padding else rounded


@dataclass(frozen=True)
class _Map:
    """Size (height, width), receptive field and cumulative stride of a feature map."""

    size: tuple[int, int]
    field: int
    step: int

    def after(self, window: nn.Conv2d | nn.MaxPool2d) -> "_Map":
        """Return the feature map after a convolution or pooling."""
        kernel, stride, padding, dilation = (_scalar(getattr(window, k)) for k in _WINDOW)
        ceil = isinstance(window, nn.MaxPool2d) and window.ceil_mode
        height, width = (output_size(side, kernel, stride, padding, dilation, ceil) for side in self.size)
        if min(height, width) < 1:
            raise ValueError(f"the image is too small for a window of {kernel}: use a larger one")
        return _Map((height, width), self.field + dilation * (kernel - 1) * self.step, self.step * stride)


_WINDOW = ("kernel_size", "stride", "padding", "dilation")


def _scalar(value: int | tuple[int, ...] | str) -> int:
    """Return the value of a square window's attribute."""
    if isinstance(value, tuple):
        value = value[0]
    if isinstance(value, str):
        raise TypeError(f"padding must be a number, got {value!r}")
    return value


def layers(net: ResNet, size: tuple[int, int]) -> list[Layer]:
    """Return a network's layers for an input of ``size`` (height, width), in forward order.

    A projection shortcut follows its block's residual branch.

    Raises:
        ValueError: the input is too small for the network.
    """
    result = [_conv_layer("conv1", "conv1", net.conv1, net.bn1, _Map(size, 1, 1))]
    current = _Map(size, 1, 1).after(net.conv1)
    if isinstance(net.maxpool, nn.MaxPool2d):
        # the paper lists the pooling in the first line of conv2_x
        current = current.after(net.maxpool)
        kernel, stride = _scalar(net.maxpool.kernel_size), _scalar(net.maxpool.stride)
        channels = net.conv1.out_channels
        result.append(
            Layer("maxpool", "conv2_x", kernel, stride, current.size, channels, 0, 0, current.field, current.step)
        )
    for i, stage in enumerate(net.stages):
        for b, block in enumerate(stage):
            assert isinstance(block, Block)
            name, block_input = f"layer{i + 1}.{b}", current
            for conv, norm in _branch(block):
                module = getattr(block, conv)
                result.append(_conv_layer(f"{name}.{conv}", f"conv{i + 2}_x", module, getattr(block, norm), current))
                current = current.after(module)
            if isinstance(block.downsample, nn.Sequential):
                projection, norm_module = block.downsample
                assert isinstance(projection, nn.Conv2d)
                result.append(_conv_layer(f"{name}.downsample", f"conv{i + 2}_x", projection, norm_module, block_input))
    if not isinstance(net.fc, nn.Linear):  # no classifier
        return result
    inputs, outputs = net.fc.in_features, net.fc.out_features
    field = current.field + current.step * (max(current.size) - 1)  # global average pooling
    parameters = _num_parameters(net.fc)
    result.append(Layer("fc", "fc", 1, 1, (1, 1), outputs, parameters, inputs * outputs, field, current.step))
    return result


def table(net: ResNet, size: tuple[int, int]) -> list[Stage]:
    """Return the layers of :func:`layers` summed by stage, without a total.

    Raises:
        ValueError: the input is too small for the network.
    """
    rows = []
    for name, group in groupby(layers(net, size), key=lambda layer: layer.stage):
        stage_layers = list(group)
        last = [layer for layer in stage_layers if not layer.name.endswith("downsample")][-1]
        number = name.removeprefix("conv").removesuffix("_x")
        blocks = _describe_stage(net.stages[int(number) - 2]) if name.endswith("_x") else _describe_layer(last)
        parameters, macs = sum(m.parameters for m in stage_layers), sum(m.macs for m in stage_layers)
        rows.append(Stage(name, blocks, last.size, last.channels, last.step, last.receptive_field, parameters, macs))
    return rows


def _branch(block: Block) -> Iterator[tuple[str, str]]:
    """Yield the attribute names of each convolution and its norm in the residual branch."""
    for norm in block.norms:
        yield norm.replace("bn", "conv"), norm


def _conv_layer(name: str, stage: str, conv: nn.Conv2d, norm: nn.Module, before: _Map) -> Layer:
    output, kernel = before.after(conv), _scalar(conv.kernel_size)
    height, width = output.size
    macs = kernel**2 * (conv.in_channels // conv.groups) * conv.out_channels * height * width
    parameters = _num_parameters(conv) + _num_parameters(norm)
    stride = _scalar(conv.stride)
    channels = conv.out_channels
    return Layer(name, stage, kernel, stride, output.size, channels, parameters, macs, output.field, output.step)


def _num_parameters(module: nn.Module) -> int:
    """Return the number of parameters; the buffers of a frozen norm count, so that freezing changes no totals."""
    named = [(k, v) for k, v in (*module.named_parameters(), *module.named_buffers()) if k in ("weight", "bias")]
    return sum(value.numel() for _, value in named)


def _describe_layer(layer: Layer) -> str:
    if layer.stage == "fc":
        return f"average pool, {layer.channels}-d fc"
    return f"{layer.kernel}x{layer.kernel}, {layer.channels}" + (f", /{layer.stride}" if layer.stride > 1 else "")


def _describe_stage(stage: nn.Sequential) -> str:
    block = stage[0]
    assert isinstance(block, Block)
    convs = [getattr(block, conv) for conv, _ in _branch(block)]
    layers_text = " · ".join(f"{_scalar(c.kernel_size)}x{_scalar(c.kernel_size)}, {c.out_channels}" for c in convs)
    return f"[{layers_text}] x {len(stage)}"
