import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from backbone import cifar_resnet, resnet50
from detection.classification.gradients import gradient_layers, gradient_norms, variants
from detection.cli import run


def test_layers_are_the_branches_convolutions():
    with torch.device("meta"):
        assert len(gradient_layers(resnet50())) == 49
        assert list(gradient_layers(cifar_resnet(20)))[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]


@pytest.mark.parametrize("plain", [False, True])
def test_norms_equal_autograd_by_hand(plain):
    """The network of one block a stage, written out with outputs that keep their gradients."""
    net = cifar_resnet(8, plain, norm="none").double()
    images, labels = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 4])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    norms = gradient_norms(net, images, labels)
    outputs = {}

    def conv(name, x):
        outputs[name] = net.get_submodule(name)(x)
        outputs[name].retain_grad()
        return outputs[name]

    x = conv("conv1", images).relu()
    for stage in (1, 2, 3):
        block = net.get_submodule(f"layer{stage}.0")
        shortcut = block.downsample(x) if block.downsample is not None else x
        branch = conv(f"layer{stage}.0.conv2", conv(f"layer{stage}.0.conv1", x).relu())
        x = (branch if plain else branch + shortcut).relu()
    F.cross_entropy(net.fc(x.mean((2, 3))), labels).backward()
    assert list(norms) == list(outputs)
    for name, output in outputs.items():
        assert norms[name] == pytest.approx(float(output.grad.norm()), rel=1e-12), name
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_network_is_as_before():
    net = cifar_resnet(8).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradient_norms(net, torch.randn(2, 3, 8, 8), torch.tensor([1, 4]))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._backward_hooks for module in net.modules())


def test_deep_plain_networks_without_norms_lose_the_gradient_and_those_with_norms_do_not():
    """Section 4.1: batch norms keep the gradients of plain networks healthy."""
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    ratio = {}
    for kind, net in variants("cifar_resnet56", stem_width=4, widths=(4, 8, 16)).items():
        first, *_, last = gradient_norms(net, images, labels).values()
        ratio[kind] = first / last
    assert ratio["plain, with batch norm"] > 0.1
    assert ratio["shortcuts, with batch norm"] > 0.1
    assert ratio["plain, without norms"] < 0.1 * ratio["plain, with batch norm"]


def test_command(tmp_path, capsys):
    argv = ["cifar_resnet20", "--gradients", "--count", "2", "--size", "16", "--output", str(tmp_path / "out.png")]
    assert run("inspect", [*argv, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    kinds = [f"{kind}, {norm}" for norm in ("with batch norm", "without norms") for kind in ("shortcuts", "plain")]
    assert list(content["gradients"]) == kinds
    assert all(len(values) == 19 for values in content["gradients"].values())
    assert Image.open(tmp_path / "out.png").size > (500, 300)
    assert run("inspect", argv) == 2  # the plot is there
    assert "out.png" in capsys.readouterr().err
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "a.jpg")
    argv[-1] = str(tmp_path / "other.png")
    assert run("inspect", [*argv, "--pictures", str(tmp_path / "a.jpg")]) == 0
    assert "first / last" in capsys.readouterr().out
    assert run("inspect", ["plain18", "--gradients"]) == 2
    assert "plain18 has no shortcuts" in capsys.readouterr().err
