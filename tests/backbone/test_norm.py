import pytest
import torch
from torch import nn

from backbone import cifar_resnet, resnet18, resnet50
from backbone.norm import FrozenBatchNorm2d, conv_norm, freeze_norms, norm_factory, unchanged_statistics


def frozen(channels: int) -> FrozenBatchNorm2d:
    norm = FrozenBatchNorm2d(channels)
    norm.weight.uniform_(0.5, 2)
    norm.bias.normal_()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def test_equals_batch_norm_in_evaluation():
    norm, reference = frozen(6), nn.BatchNorm2d(6).eval()
    reference.load_state_dict(norm.state_dict() | {"num_batches_tracked": torch.tensor(3)})
    x = torch.randn(2, 6, 5, 4)
    assert torch.equal(norm(x), reference(x))
    assert torch.equal(norm.train()(x), norm.eval()(x))


def test_loads_batch_norms_state():
    norm = FrozenBatchNorm2d(4)
    norm.load_state_dict(nn.BatchNorm2d(4).state_dict(), strict=True)
    assert list(norm.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    assert list(norm.parameters()) == []


def test_affine_by_hand():
    norm = FrozenBatchNorm2d(1, eps=0.0)
    norm.weight.fill_(6)
    norm.bias.fill_(1)
    norm.running_mean.fill_(2)
    norm.running_var.fill_(9)
    scale, shift = norm.affine()  # (x - 2) / 3 * 6 + 1 = 2x - 3
    assert (scale.item(), shift.item()) == (2.0, -3.0)


def test_folding_equals_the_two_layers():
    conv, norm = nn.Conv2d(4, 6, 3, 2, 1, bias=False), frozen(6)
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(conv_norm(conv, norm, x), norm(conv(x)), rtol=1e-5, atol=1e-5)


def test_synchronised_norms_are_batch_norms_in_one_process():
    """Over two processes tests/detection/engine/test_module.py holds them against one process' batch norm."""
    norm, reference = norm_factory("sync_bn")(6), nn.BatchNorm2d(6)
    x = torch.randn(2, 6, 5, 4)
    assert torch.equal(norm(x), reference(x))
    assert torch.equal(nn.SyncBatchNorm.forward(norm, x), reference(x))  # what it calls on GPUs
    assert norm.state_dict().keys() == nn.SyncBatchNorm(6).state_dict().keys()


def test_any_module_s_batch_norms_are_frozen():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3), nn.ModuleDict({"a": nn.BatchNorm2d(4, affine=False)})
    )
    for norm in (model[1], model[2]["a"]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    model[1].weight.data.normal_()
    x = torch.randn(2, 3, 5, 5)
    before = model[2]["a"].eval()(model[1].eval()(model[0](x)))
    assert freeze_norms(model) is model
    model.train()
    assert isinstance(model[1], FrozenBatchNorm2d)
    assert isinstance(model[2]["a"], FrozenBatchNorm2d)
    assert torch.equal(model[2]["a"](model[1](model[0](x))), before)
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    assert isinstance(freeze_norms(nn.BatchNorm2d(3)), FrozenBatchNorm2d)
    with pytest.raises(ValueError, match="track_running_stats"):
        freeze_norms(nn.BatchNorm2d(3, track_running_stats=False))


def test_more_than_a_norm_is_not_frozen_and_twins_stay_twins():
    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(ValueError, match="Activated is a subclass of batch norm"):
        freeze_norms(nn.Sequential(Activated(3)))
    norm = nn.BatchNorm2d(3)
    twins = freeze_norms(nn.Sequential(norm, norm))
    assert twins[0] is twins[1]
    assert isinstance(twins[1], FrozenBatchNorm2d)


class Hooked:
    """Counts the calls of forward hooks on all convolutions and norms of a network."""

    def __init__(self, net):
        self.calls = {}
        kinds = (nn.Conv2d, FrozenBatchNorm2d)
        for name, module in net.named_modules():
            if isinstance(module, kinds):
                self.calls[name] = 0
                module.register_forward_hook(lambda m, i, o, name=name: self.calls.update({name: self.calls[name] + 1}))


@pytest.mark.parametrize("factory", [resnet18, resnet50])
def test_hooks_fire_on_folded_layers(factory):
    torch.manual_seed(0)
    net, x = factory(norm="frozen_bn").eval(), torch.rand(1, 3, 64, 64)
    for module in net.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_()
    folded = net.features(x)
    hooked = Hooked(net)
    assert len(hooked.calls) > 37
    maps = net.features(x)
    assert set(hooked.calls.values()) == {1}
    for name, value in folded.items():
        torch.testing.assert_close(maps[name], value, rtol=0, atol=1e-5 * float(value.detach().abs().max()))


def test_pre_hooks_backward_hooks_and_hooks_on_the_shortcut_fire():
    net, x, fired = resnet18(norm="frozen_bn"), torch.rand(1, 3, 32, 32), []
    net.layer2[0].conv1.register_forward_pre_hook(lambda m, i: fired.append("pre"))
    net.layer2[0].conv2.register_full_backward_hook(lambda m, i, o: fired.append("backward"))
    net.layer2[0].downsample.register_forward_hook(lambda m, i, o: fired.append("shortcut"))
    net(x).sum().backward()
    assert sorted(fired) == ["backward", "pre", "shortcut"]


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_subclasses_padding_and_biases_count():
    torch.manual_seed(0)
    x, norm = torch.rand(2, 3, 8, 8), FrozenBatchNorm2d(4)
    norm.running_mean.fill_(0.3)
    for conv in (
        Doubled(3, 4, 3, padding=1, bias=False),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(3, 4, 3, padding=1, bias=True),
    ):
        assert torch.equal(conv_norm(conv, norm, x), norm(conv(x)))

    class Shifted(FrozenBatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    conv, shifted = nn.Conv2d(3, 4, 3, bias=False), Shifted(4)
    assert torch.equal(conv_norm(conv, shifted, x), shifted(conv(x)))


@pytest.mark.parametrize(("channels", "groups"), [(3, 3), (16, 16), (32, 32), (96, 32)])
def test_group_norm_has_32_groups_or_one_a_channel(channels, groups):
    assert norm_factory("gn")(channels).num_groups == groups


def test_group_norm_of_other_channel_numbers_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"norm 'gn' has 32 groups, which do not divide 48 channels: use widths.*norm \(bn\)"
    ):
        cifar_resnet(20, norm="gn", stem_width=24, widths=(24, 48, 96))


def test_statistics_are_as_before_also_after_an_error():
    norm, x = nn.BatchNorm2d(2), torch.randn(4, 2, 3, 3) + 5
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with unchanged_statistics(nn.Sequential(norm)):
        norm(x)
        assert norm.num_batches_tracked == 1
    with pytest.raises(RuntimeError, match="channels"), unchanged_statistics(nn.Sequential(norm, nn.Conv2d(3, 1, 1))):
        nn.Sequential(norm, nn.Conv2d(3, 1, 1))(x)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
