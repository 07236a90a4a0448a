import json

import pytest
import torch
from PIL import Image
from torch import nn

from backbone import cifar_resnet, resnet50
from detection.classification.responses import response_deviations, response_layers
from detection.cli import run


def test_layers_are_those_of_the_paper():
    """Figure 7 has a point for each 3x3 layer: all but the classifier."""
    assert len(response_layers(cifar_resnet(20))) == 19
    assert len(response_layers(cifar_resnet(56, plain=True))) == 55
    with torch.device("meta"):
        layers = response_layers(resnet50())
    assert len(layers) == 49
    assert not [name for name in layers if "downsample" in name]
    assert list(layers)[:4] == ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.0.bn3"]


@pytest.mark.parametrize("plain", [False, True])
def test_deviations_equal_manual_forward(plain):
    """Two blocks computed step by step: responses are after the norm, before addition and ReLU."""
    net = cifar_resnet(8, plain).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    batches = torch.randn(2, 3, 3, 8, 8)
    deviations = response_deviations(net, batches)
    x = torch.cat(list(batches)).double()
    net.double()
    with torch.no_grad():
        first = net.bn1(net.conv1(x))
        block = net.layer1[0]
        second = block.bn1(block.conv1(first.relu()))
        third = block.bn2(block.conv2(second.relu()))
        out = (third if plain else third + first.relu()).relu()
        block = net.layer2[0]
        fourth = block.bn1(block.conv1(out))
    names = ("bn1", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn1")
    for name, response in zip(names, (first, second, third, fourth), strict=True):
        assert deviations[name] == pytest.approx(float(response.std(correction=0)), rel=1e-5)


def test_frozen_norms_and_no_images_are_rejected():
    with pytest.raises(ValueError, match="bn1 is frozen"):
        response_deviations(cifar_resnet(8, norm="frozen_bn"), [torch.zeros(1, 3, 8, 8)])
    with pytest.raises(ValueError, match="at least one image"):
        response_deviations(cifar_resnet(8), [])


def test_command(tmp_path, capsys):
    Image.new("RGB", (300, 300), (9, 99, 200)).save(tmp_path / "a.png")
    torch.save(resnet50(num_classes=5).state_dict(), tmp_path / "net.pth")
    argv = ["resnet50", "--responses", str(tmp_path / "net.pth"), "--output", str(tmp_path / "out.png")]
    assert run("inspect", argv) == 2
    assert "give images with --pictures" in capsys.readouterr().err
    assert run("inspect", [*argv, "--pictures", str(tmp_path), "--json"]) == 0
    deviations = json.loads(capsys.readouterr().out)
    assert list(deviations) == ["net.pth"]
    assert len(deviations["net.pth"]) == 49
    assert Image.open(tmp_path / "out.png").size > (500, 500)
    with pytest.raises(SystemExit):
        run("inspect", [])
