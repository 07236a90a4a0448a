import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbone import (
    FeatureSpec,
    cifar_resnet,
    plain18,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
)
from backbone.table import layers, output_size, table


def total(net, side):
    return sum(row.macs for row in table(net, (side, side)))


def parameters(net):
    return sum(row.parameters for row in table(net, (32, 32)))


@pytest.mark.parametrize(
    ("build", "options", "billions"),
    [
        (resnet18, {"shortcut": "A", "stride_in": "1x1"}, 1.8),
        (resnet34, {"shortcut": "A", "stride_in": "1x1"}, 3.6),
        (resnet50, {"stride_in": "1x1"}, 3.8),
        (resnet101, {"stride_in": "1x1"}, 7.6),
        (resnet152, {"stride_in": "1x1"}, 11.3),
    ],
)
def test_paper_table_1(build, options, billions):
    assert total(build(**options), 224) == pytest.approx(billions * 1e9, rel=0.02)


@pytest.mark.parametrize(("build", "billions"), [(resnet50, 4.09), (resnet101, 7.80), (resnet152, 11.51)])
def test_stride_in_3x3(build, billions):
    assert total(build(), 224) == pytest.approx(billions * 1e9, rel=0.002)


# table 6; the last two at the paper's precision
@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7), (1202, 19.4)]
)
def test_paper_table_6(depth, millions):
    assert parameters(cifar_resnet(depth)) == pytest.approx(millions * 1e6, rel=0.02)


@pytest.mark.parametrize(
    "net",
    [
        resnet18(stem_pool="ceil"),
        plain18(),
        resnet50(output_stride=8, stride_in="1x1"),
        resnext50_32x4d(shortcut="C"),
        cifar_resnet(20),
    ],
    ids=["ceil", "plain", "dilated", "resnext", "cifar"],
)
@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
def test_layers_equal_a_forward_pass(net, size):
    rows = {row.name: row for row in layers(net, size)}
    shapes = {}

    def record(name):
        return lambda module, _, out: shapes.update({name.removesuffix(".0"): tuple(out.shape[1:])})

    windows = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)]
    hooks = [m.register_forward_hook(record(name)) for name, m in windows]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()
        net(torch.zeros(1, 3, *size))
    for hook in hooks:
        hook.remove()
    assert len(shapes) == len(windows) == len(rows) - 1
    for name, shape in shapes.items():
        assert (rows[name].channels, *rows[name].size) == shape, name
    assert counter.get_total_flops() == 2 * sum(row.macs for row in rows.values())
    counted = set(net.parameters()) | {b for k, b in net.named_buffers() if k.endswith(("weight", "bias"))}
    assert sum(p.numel() for p in counted) == sum(row.parameters for row in rows.values())
    features = net.features(torch.zeros(1, 3, *size))
    for row in table(net, size):
        if row.name.endswith("_x"):
            name = f"c{row.name[4]}"
            assert tuple(features[name].shape[1:]) == (row.channels, *row.size)
            assert net.specs[name] == FeatureSpec(row.channels, row.stride)


@pytest.mark.parametrize(
    ("net", "size", "field"),
    # computed by hand: 3, six 3x3 at step 1 (15), one at 1 and five at 2 (37), one at 2 and five at 4 (81)
    [(cifar_resnet(20), 128, 81), (resnet18(), 512, 435), (resnet18(output_stride=16), 640, 403)],
    ids=["cifar20", "resnet18", "dilated"],
)
def test_receptive_field_equals_the_nonzero_gradient(net, size, field):
    *_, last, _ = table(net, (size, size))
    assert last.receptive_field == field
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
    if isinstance(net.maxpool, nn.MaxPool2d):  # max pooling passes the gradient to one value only
        net.maxpool = nn.AvgPool2d(3, 2, 1)
    image = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    maps = list(net.double().eval().features(image).values())[-1]
    maps[0, 0, maps.shape[2] // 2, maps.shape[3] // 2].backward()
    nonzero = image.grad[0, 0].abs().sum(0).nonzero()
    assert int(nonzero.max() - nonzero.min()) + 1 == field


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), [(7, 3, 2, 1), (8, 2, 2, 0), (112, 3, 2, 0)])
@pytest.mark.parametrize("ceil", [False, True])
def test_output_size(size, kernel, stride, padding, ceil):
    pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    assert output_size(size, kernel, stride, padding, 1, ceil) == pool(torch.zeros(1, 1, size, size)).shape[2]


def test_image_too_small():
    with pytest.raises(ValueError, match="use a larger one"):
        table(resnet18(stem_pool="ceil"), (2, 2))
