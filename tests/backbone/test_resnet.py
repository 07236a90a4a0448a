import pytest
import torch
import torchvision
from torch import nn

import backbone
from backbone import FrozenBatchNorm2d, ResNet, split_c4
from backbone.blocks import BasicBlock, Bottleneck, ZeroPad
from backbone.resnet import FACTORIES, Conv5

SMALL = ["resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2"]


def with_random_norms(net: nn.Module) -> nn.Module:
    """Randomise statistics and affine parameters: the defaults of new norms would hide errors."""
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.1)
    return net


@pytest.mark.parametrize("name", SMALL)
def test_equals_torchvision_bit_for_bit(name):
    reference = with_random_norms(getattr(torchvision.models, name)(num_classes=7)).eval()
    net = getattr(backbone, name)(num_classes=7).eval()
    net.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, 3, 65, 94)
    with torch.no_grad():
        assert torch.equal(net(x), reference(x))


@pytest.mark.parametrize("name", sorted(n for n in set(FACTORIES) - set(SMALL) if not n.startswith("plain")))
def test_keys_and_shapes_equal_torchvision(name):
    with torch.device("meta"):
        reference = getattr(torchvision.models, name)()
        net = FACTORIES[name]()
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in reference.state_dict().items()}


@pytest.mark.parametrize("stride", [16, 8])
def test_dilation_equals_torchvision(stride):
    reference = torchvision.models.resnet50(replace_stride_with_dilation=[False, stride == 8, True]).eval()
    net = backbone.resnet50(output_stride=stride).eval()
    net.load_state_dict(reference.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), reference(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("stem_pool", ["pad1", "ceil"])
def test_specs_equal_the_feature_maps(name, output_stride, stem_pool):
    net = getattr(backbone, name)(output_stride=output_stride, stem_pool=stem_pool).eval()
    with torch.no_grad():
        maps = net.features(torch.randn(1, 3, 64, 96))
    assert list(maps) == list(net.specs) == ["c1", "c2", "c3", "c4", "c5"]
    for key, spec in net.specs.items():
        assert maps[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


def test_stride_in_1x1_equals_torchvision_with_moved_strides():
    reference = torchvision.models.resnet50().eval()
    for layer in (reference.layer2, reference.layer3, reference.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    reference.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)
    net = backbone.resnet50(stride_in="1x1", stem_pool="ceil").eval()
    net.load_state_dict(reference.state_dict())
    x = torch.randn(1, 3, 70, 61)
    with torch.no_grad():
        assert torch.equal(net(x), reference(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_frozen_and_folded_equals_batch_norm(name):
    plain = with_random_norms(getattr(backbone, name)(num_classes=5)).eval()
    frozen = getattr(backbone, name)(num_classes=5, norm="frozen_bn").eval()
    frozen.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    expected, got = plain(x), frozen(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_folding_preserves_the_gradient():
    # in float64: in float32, rounding changes the sign of some ReLU inputs and thereby the gradient
    plain = with_random_norms(backbone.resnet18(num_classes=5)).eval().double()
    frozen = backbone.resnet18(num_classes=5, norm="frozen_bn").eval().double()
    frozen.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    plain(x).sum().backward()
    frozen(x).sum().backward()
    reference = dict(plain.named_parameters())
    for name, parameter in frozen.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-9, atol=1e-9)


def test_split_c4_shares_parameters_and_equals_the_network():
    net = backbone.resnet18(norm="frozen_bn").eval()
    trunk, conv5 = split_c4(net)
    x = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        maps = net.features(x)
        assert torch.equal(trunk(x), maps["c4"])
        assert torch.equal(conv5(trunk(x)), maps["c5"])
    assert trunk.spec == net.specs["c4"]
    assert conv5.spec == net.specs["c5"]
    assert trunk.conv1.weight is net.conv1.weight
    assert not set(trunk.state_dict()) & set(conv5.state_dict())
    assert set(trunk.state_dict()) | set(conv5.state_dict()) == {k for k in net.state_dict() if not k.startswith("fc.")}
    assert trunk(x).shape[-2:] == (7, 9)  # ceil(97 / 16), ceil(130 / 16)


@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at_equals_detectron2(freeze_at):
    net = backbone.resnet18(freeze_at=freeze_at)
    stages = [[net.conv1, net.bn1], [net.layer1], [net.layer2], [net.layer3], [net.layer4]]
    for i, stage in enumerate(stages):
        frozen = i < freeze_at
        parameters = [p for m in stage for p in m.parameters()]
        assert all(p.requires_grad != frozen for p in parameters)
        norms = [m for part in stage for m in part.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))]
        assert all(isinstance(m, FrozenBatchNorm2d) == frozen for m in norms)


def test_conv5_norm():
    net = backbone.resnet18(norm="frozen_bn", conv5_norm="gn")
    assert isinstance(net.layer3[0].bn1, FrozenBatchNorm2d)
    assert all(isinstance(b.bn1, nn.GroupNorm) for b in net.layer4)
    without = backbone.resnet18(norm="frozen_bn", conv5_norm="none")
    assert without.layer4[0].conv1.bias is not None  # replaces the norm's shift
    assert without(torch.randn(1, 3, 32, 32)).shape == (1, 1000)


def test_norm_factory():
    net = backbone.resnet18(norm=lambda c: nn.GroupNorm(4, c))
    assert net.bn1.num_groups == 4


@pytest.mark.parametrize(
    "invalid", [{"norm": "batch"}, {"stride_in": "2x2"}, {"stem_pool": "same"}, {"output_stride": 4}, {"freeze_at": 6}]
)
def test_invalid_options_are_reported(invalid):
    ((key, value),) = invalid.items()
    with pytest.raises(ValueError, match=f"{key}.*{value}"):
        backbone.resnet18(**invalid)


@pytest.mark.slow
def test_every_factory_runs():
    for name, factory in FACTORIES.items():
        with torch.no_grad():
            assert factory().eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000), name


def test_shortcut_a():
    pad = ZeroPad(1, 3, 2)
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert torch.equal(pad(x)[0, 0], torch.tensor([[0.0, 2], [6, 8]]))
    assert not pad(x)[0, 1:].any()
    assert list(pad.parameters()) == []
    with pytest.raises(ValueError, match="cannot reduce channels from 64 to 32"):
        ZeroPad(64, 32, 1)


@pytest.mark.parametrize("build", [backbone.resnet18, backbone.resnet50])
def test_shortcuts_project_as_in_the_paper(build):
    nets = {kind: build(shortcut=kind) for kind in "ABC"}
    projected = {
        kind: [k for k, m in net.named_modules() if k.endswith("downsample") and isinstance(m, nn.Sequential)]
        for kind, net in nets.items()
    }
    first = [f"layer{i}.0.downsample" for i in range(1 if build is backbone.resnet50 else 2, 5)]
    assert projected["A"] == []
    assert projected["B"] == first
    assert len(projected["C"]) == sum(len(stage) for stage in nets["C"].stages)
    x = torch.randn(2, 3, 64, 64)
    assert {net(x).shape for net in nets.values()} == {(2, 1000)}


def test_shortcut_a_equals_an_identity_projection():
    net = backbone.resnet18(shortcut="A", norm="none", num_classes=5).double()
    same = backbone.resnet18(shortcut="B", norm="none", num_classes=5).double()
    same.load_state_dict(net.state_dict(), strict=False)
    for stage in list(same.stages)[1:]:
        projection = stage[0].downsample[0]
        nn.init.eye_(projection.weight.data[:, :, 0, 0])
        nn.init.zeros_(projection.bias)
    x = torch.randn(1, 3, 65, 50, dtype=torch.float64)
    torch.testing.assert_close(net(x), same(x), rtol=1e-12, atol=1e-12)


def test_plain_network_is_sequential():
    net = with_random_norms(backbone.plain18(num_classes=5)).eval()
    chain = [net.conv1, net.bn1, net.relu, net.maxpool]
    for stage in net.stages:
        for block in stage:
            chain += [block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2, nn.ReLU()]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), net.fc(nn.Sequential(*chain)(x).mean((2, 3))))
    kept = {k: v.shape for k, v in backbone.resnet18(shortcut="A", num_classes=5).state_dict().items()}
    assert kept == {k: v.shape for k, v in net.state_dict().items()}


@pytest.mark.parametrize("plain", [False, True])
def test_cifar_networks(plain):
    net = backbone.cifar_resnet(20, plain=plain)
    maps = net.features(torch.randn(2, 3, 32, 32))
    assert {k: tuple(v.shape[1:]) for k, v in maps.items()} == {
        "c1": (16, 32, 32),
        "c2": (16, 32, 32),
        "c3": (32, 16, 16),
        "c4": (64, 8, 8),
    }
    assert {k: (s.channels, s.stride) for k, s in net.specs.items()} == {
        "c1": (16, 1),
        "c2": (16, 1),
        "c3": (32, 2),
        "c4": (64, 4),
    }
    weighted = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 20
    with pytest.raises(ValueError, match="conv2_x to conv5_x, this one has 3 stages"):
        split_c4(net)


@pytest.mark.parametrize("depth", [18, 2, 21])
def test_invalid_cifar_depths_are_rejected(depth):
    with pytest.raises(ValueError, match=r"6n \+ 2 .*got " + str(depth)):
        backbone.cifar_resnet(depth)


def test_dilation_by_stage_equals_torchvision():
    reference = torchvision.models.resnet50(replace_stride_with_dilation=[True, False, True]).eval()
    net = backbone.resnet50(replace_stride_with_dilation=[True, False, True]).eval()
    net.load_state_dict(reference.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), reference(x))
    assert [net.specs[k].stride for k in ("c2", "c3", "c4", "c5")] == [4, 4, 8, 8]
    with pytest.raises(ValueError, match="mutually exclusive"):
        backbone.resnet50(replace_stride_with_dilation=[True] * 3, output_stride=8)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_init_residual_equals_torchvision(name):
    reference = getattr(torchvision.models, name)(zero_init_residual=True)
    net = getattr(backbone, name)(zero_init_residual=True)
    zero = {k for k, p in reference.named_parameters() if k.endswith("weight") and not p.any()}
    assert zero == {k for k, p in net.named_parameters() if k.endswith("weight") and not p.any()}
    with pytest.raises(ValueError, match="layers with a weight"):
        backbone.resnet18(norm="none", zero_init_residual=True)


def test_custom_widths():
    net = ResNet(
        Bottleneck, (1, 2), 3, widths=(8, 24), bottleneck_widths=(4, 6), stem_width=12, stem_kernel=5, in_channels=1
    )
    assert net(torch.randn(2, 1, 40, 40)).shape == (2, 3)
    assert [(s.channels, s.stride) for s in net.specs.values()] == [(12, 2), (32, 4), (96, 8)]
    assert net.layer2[1].conv2.weight.shape == (6, 6, 3, 3)
    with pytest.raises(ValueError, match="widths must have 2 values"):
        ResNet(BasicBlock, (1, 1), widths=(8, 8, 8))


@pytest.mark.parametrize("side", [14, 7])
def test_conv5_without_stride(side):
    """On every second row and column it equals the strided one; the network itself is unchanged."""
    net = backbone.resnet50(stride_in="1x1").eval()
    strided, unstrided = Conv5(net), Conv5(net, strided=False)
    x = torch.randn(2, 1024, side, side)
    with torch.no_grad():
        torch.testing.assert_close(unstrided(x[:, :, ::2, ::2]), strided(x), rtol=1e-5, atol=1e-5)
    assert unstrided.state_dict().keys() == strided.state_dict().keys()
    assert {id(p) for p in unstrided.parameters()} == {id(p) for p in net.layer4.parameters()}
    assert net.layer4[0].conv1.stride == (2, 2)
    unstrided.double()
    assert net.layer4[0].conv1.weight.dtype == torch.float64  # shared parameters
    with pytest.raises(ValueError, match="in its 1x1 convolutions"):
        Conv5(backbone.resnet50(), strided=False)


def test_plain_networks_have_no_shortcuts():
    for build in (backbone.plain18, lambda **o: backbone.cifar_resnet(20, plain=True, **o)):
        assert not [n for n, _ in build(shortcut="none").named_modules() if "downsample" in n]
        with pytest.raises(ValueError, match="has no shortcuts, got shortcut='B'"):
            build(shortcut="B")
    with pytest.raises(ValueError, match="last must be one of c2, c3, c4"):
        backbone.Trunk(backbone.cifar_resnet(20), "c5")
