import pytest
import torch
import torchvision
from torch import nn

import backbone
from backbone import FrozenBatchNorm2d, split_c4
from backbone.resnet import FACTORIES

SMALL = ["resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2"]


def with_random_norms(net: nn.Module) -> nn.Module:
    """Statistics and affine parameters as training leaves them; fresh norms would hide a mistake in them."""
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.1)
    return net


@pytest.mark.parametrize("name", SMALL)
def test_equals_torchvision_bit_for_bit(name):
    theirs = with_random_norms(getattr(torchvision.models, name)(num_classes=7)).eval()
    ours = getattr(backbone, name)(num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 65, 94)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", sorted(set(FACTORIES) - set(SMALL)))
def test_has_torchvisions_keys_and_shapes(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
        ours = FACTORIES[name]()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("stride", [16, 8])
def test_dilation_equals_torchvision(stride):
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, stride == 8, True]).eval()
    ours = backbone.resnet50(output_stride=stride).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("stem_pool", ["pad1", "ceil"])
def test_declared_features_are_the_real_ones(name, output_stride, stem_pool):
    net = getattr(backbone, name)(output_stride=output_stride, stem_pool=stem_pool).eval()
    with torch.no_grad():
        maps = net.features(torch.randn(1, 3, 64, 96))
    assert list(maps) == list(net.specs) == ["c1", "c2", "c3", "c4", "c5"]
    for key, spec in net.specs.items():
        assert maps[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


def test_stride_in_1x1_is_torchvision_with_the_strides_moved():
    theirs = torchvision.models.resnet50().eval()
    for layer in (theirs.layer2, theirs.layer3, theirs.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    theirs.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)
    ours = backbone.resnet50(stride_in="1x1", stem_pool="ceil").eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 70, 61)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_frozen_and_folded_equals_batch_norm(name):
    plain = with_random_norms(getattr(backbone, name)(num_classes=5)).eval()
    frozen = getattr(backbone, name)(num_classes=5, norm="frozen_bn").eval()
    frozen.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    expected, got = plain(x), frozen(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_folding_keeps_the_gradient():
    # in float64: rectifiers that flip by rounding make float32 gradients of two orders of summation differ
    plain = with_random_norms(backbone.resnet18(num_classes=5)).eval().double()
    frozen = backbone.resnet18(num_classes=5, norm="frozen_bn").eval().double()
    frozen.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    plain(x).sum().backward()
    frozen(x).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in frozen.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-9, atol=1e-9)


def test_split_shares_parameters_and_equals_the_whole():
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
def test_freeze_at_counts_as_detectron2(freeze_at):
    net = backbone.resnet18(freeze_at=freeze_at)
    stages = [[net.conv1, net.bn1], [net.layer1], [net.layer2], [net.layer3], [net.layer4]]
    for i, stage in enumerate(stages):
        frozen = i < freeze_at
        parameters = [p for m in stage for p in m.parameters()]
        assert all(p.requires_grad != frozen for p in parameters)
        norms = [m for part in stage for m in part.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))]
        assert all(isinstance(m, FrozenBatchNorm2d) == frozen for m in norms)


def test_conv5_has_a_norm_of_its_own():
    net = backbone.resnet18(norm="frozen_bn", conv5_norm="gn")
    assert isinstance(net.layer3[0].bn1, FrozenBatchNorm2d)
    assert all(isinstance(b.bn1, nn.GroupNorm) for b in net.layer4)
    without = backbone.resnet18(norm="frozen_bn", conv5_norm="none")
    assert without.layer4[0].conv1.bias is not None  # what a norm's shift would give
    assert without(torch.randn(1, 3, 32, 32)).shape == (1, 1000)


def test_a_callable_makes_norms():
    net = backbone.resnet18(norm=lambda c: nn.GroupNorm(4, c))
    assert net.bn1.num_groups == 4


@pytest.mark.parametrize(
    "wrong", [{"norm": "batch"}, {"stride_in": "2x2"}, {"stem_pool": "same"}, {"output_stride": 4}, {"freeze_at": 6}]
)
def test_wrong_choices_are_named(wrong):
    ((key, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{key}.*{value}"):
        backbone.resnet18(**wrong)


@pytest.mark.slow
def test_every_table_entry_runs():
    for name, factory in FACTORIES.items():
        with torch.no_grad():
            assert factory().eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000), name
