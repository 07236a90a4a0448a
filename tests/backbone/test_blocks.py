import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet as torchvision_resnet

from backbone import resnet18, resnet50, split_c4
from backbone.blocks import BasicBlock, Block, Bottleneck, ZeroPad, checkpoint_blocks, conv, make_shortcut
from backbone.norm import norm_factory

BN, NONE = norm_factory("bn"), norm_factory("none")
USUAL = {"stride": 1, "dilation": 1, "groups": 1, "stride_in": "3x3", "shortcut": "B", "norm": BN}


def make(block, cin, width, mid=None, **options):
    """A block in evaluation, its norms' statistics drawn."""
    made = block(cin, width, mid or width, **(USUAL | options)).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return made


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), (3, 4)])
def test_a_convolution_of_stride_one_keeps_the_size(kernel, dilation):
    assert conv(2, 3, kernel, BN, dilation=dilation)(torch.zeros(1, 2, 9, 7)).shape == (1, 3, 9, 7)


def test_a_convolution_has_a_bias_where_no_norm_follows():
    assert conv(2, 3, 1, BN).bias is None
    assert conv(2, 3, 1, NONE).bias is not None


def test_zero_padding_takes_every_second_point_and_adds_zeros():
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    got = ZeroPad(2, 5, 2)(x)
    assert got.shape == (1, 5, 2, 2)
    assert got[0, 0].tolist() == [[0, 2], [6, 8]]
    assert got[0, 1].tolist() == [[9, 11], [15, 17]]
    assert not got[0, 2:].any()


def test_zero_padding_cannot_take_channels_away():
    with pytest.raises(ValueError, match="from 4 to 2"):
        ZeroPad(4, 2, 1)


@pytest.mark.parametrize(
    ("kind", "cout", "stride", "wanted"),
    [
        ("A", 4, 1, type(None)),
        ("B", 4, 1, type(None)),
        ("C", 4, 1, nn.Sequential),
        ("none", 8, 2, type(None)),
        ("A", 8, 2, ZeroPad),
        ("B", 8, 1, nn.Sequential),
        ("B", 4, 2, nn.Sequential),
    ],
)
def test_shortcuts_of_the_paper(kind, cout, stride, wanted):
    assert type(make_shortcut(kind, 4, cout, stride, BN)) is wanted


@pytest.mark.parametrize("stride", [1, 2])
def test_a_basic_block_is_two_convolutions_beside_a_shortcut(stride):
    block, x = make(BasicBlock, 4, 8, stride=stride), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        inner = F.conv2d(x, block.conv1.weight, stride=stride, padding=1)
        inner = F.conv2d(block.bn1(inner).relu(), block.conv2.weight, padding=1)
        beside = block.downsample[1](F.conv2d(x, block.downsample[0].weight, stride=stride))
        torch.testing.assert_close(block(x), (block.bn2(inner) + beside).relu(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_bottleneck_strides_where_it_is_told(stride_in, groups):
    block = make(Bottleneck, 8, 4, stride=2, stride_in=stride_in, groups=groups)
    x, first = torch.randn(1, 8, 6, 6), 2 if stride_in == "1x1" else 1
    with torch.no_grad():
        inner = block.bn1(F.conv2d(x, block.conv1.weight, stride=first)).relu()
        inner = block.bn2(F.conv2d(inner, block.conv2.weight, stride=2 // first, padding=1, groups=groups)).relu()
        inner = block.bn3(F.conv2d(inner, block.conv3.weight))
        beside = block.downsample[1](F.conv2d(x, block.downsample[0].weight, stride=2))
        got = block(x)
    assert got.shape == (1, 16, 3, 3)
    torch.testing.assert_close(got, (inner + beside).relu(), atol=1e-5, rtol=1e-5)


def test_a_bottleneck_equals_torchvisions():
    theirs = torchvision_resnet.Bottleneck(16, 4).eval()
    ours = make(Bottleneck, 16, 4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 16, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_a_branch_of_zeros_leaves_the_rectified_input():
    block, x = make(BasicBlock, 4, 4), torch.randn(1, 4, 5, 5)
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)
    before = x.clone()
    assert torch.equal(block(x), before.relu())
    assert torch.equal(x, before)  # the input is not written to


def test_a_plain_block_has_no_shortcut():
    block, x = make(BasicBlock, 4, 8, stride=2, shortcut="none"), torch.randn(1, 4, 6, 6)
    assert block.downsample is None
    torch.testing.assert_close(block(x), block.branch(x).relu())


@pytest.mark.parametrize(("mid", "groups"), [(8, 2), (16, 1)])
def test_a_basic_block_has_no_groups_and_one_width(mid, groups):
    with pytest.raises(ValueError, match="mid=width"):
        BasicBlock(8, 8, mid, **(USUAL | {"groups": groups}))


@pytest.mark.parametrize("network", [resnet18, resnet50])
@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "gn"])
def test_checkpointed_blocks_have_the_same_gradients_and_statistics(network, norm):
    """Bit for bit: the second pass computes what the first one did, and leaves the norms' statistics alone."""

    def step(checkpointed):
        torch.manual_seed(0)
        net = network(norm=norm, freeze_at=2 if norm == "frozen_bn" else 0, widths=[32] * 4, stem_width=32)
        trunk, calls = split_c4(net)[0].train(), []
        if checkpointed:
            checkpoint_blocks(trunk)
        trunk.layer3[0].conv1.register_forward_hook(lambda *_: calls.append(1))
        for _ in range(2):
            trunk(torch.rand(2, 3, 64, 80)).square().mean().backward()
        return (
            {n: p.grad for n, p in trunk.named_parameters() if p.grad is not None},
            dict(trunk.named_buffers()),
            calls,
        )

    gradients, buffers, once = step(False)
    same, same_buffers, twice = step(True)
    assert (len(once), len(twice)) == (2, 4)
    assert gradients.keys() == same.keys()
    assert len(gradients) >= 10
    for name, value in (*gradients.items(), *buffers.items()):
        assert torch.equal(value, (same | same_buffers)[name]), name


def test_checkpointing_is_for_training_and_for_what_has_blocks():
    trunk, _ = split_c4(resnet18(widths=[8] * 4, stem_width=8))
    checkpoint_blocks(trunk)
    assert all(m.checkpointed for m in trunk.modules() if isinstance(m, Block))
    assert not Block.checkpointed
    with torch.no_grad():
        assert trunk(torch.rand(1, 3, 32, 32)).grad_fn is None
    with pytest.raises(ValueError, match="Conv2d has no residual blocks"):
        checkpoint_blocks(nn.Conv2d(3, 3, 1))


def test_timms_networks_checkpoint_themselves():
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet10t", features_only=True)
    checkpoint_blocks(net)
    assert net.grad_checkpointing
