import logging

import pytest
import torch
import torchvision

from backbone import FrozenBatchNorm2d, cifar_resnet, hub, resnet18, resnet50
from backbone.recipe import RECIPES


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """torchvision's resnet18 of 7 classes with random statistics, and its file."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=7).eval()
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(net.state_dict(), file)
    return net, file


def test_a_network_with_weights_is_torchvisions(theirs):
    net, file = theirs
    ours = resnet18(weights=file).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), net(images))
    assert ours.recipe is RECIPES["torchvision"]


def test_without_a_classifier_the_features_are_pooled(theirs):
    """As timm's num_classes=0 and labml's ResNetBase."""
    net, file = theirs
    ours = resnet18(None, weights=str(file)).eval()
    net.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), net(images))
        assert cifar_resnet(20, num_classes=None)(images).shape == (2, 64)
    assert not [key for key in ours.state_dict() if key.startswith("fc")]
    net.fc = torch.nn.Linear(512, 7)


def test_names_are_downloaded(theirs, monkeypatch):
    monkeypatch.setattr("backbone.pretrained.fetch", {"torchvision://resnet18": theirs[1]}.__getitem__)
    assert hub.is_name("torchvision://resnet18")
    net = resnet18(weights="torchvision://resnet18", norm="frozen_bn", freeze_at=2)
    assert isinstance(net.bn1, FrozenBatchNorm2d)
    assert torch.equal(net.bn1.running_var, theirs[0].bn1.running_var)
    assert net.fc.out_features == 7


def test_another_number_of_classes_is_fine_tuning(theirs, caplog):
    with caplog.at_level(logging.WARNING):
        net = resnet18(5, weights=theirs[1])
    assert net.fc.out_features == 5
    assert torch.equal(net.conv1.weight, theirs[0].conv1.weight)
    assert "the classifier of 5 classes is as initialised: the weights have one of 7" in caplog.text


def test_the_recipe_says_where_a_network_strides(tmp_path):
    """Caffe's: the stride in the 1x1, and pooling that rounds up."""
    file = tmp_path / "msra.pth"
    net = resnet50(stride_in="1x1", stem_pool="ceil")
    torch.save({"recipe": "msra", "model": net.state_dict()}, file)
    ours = resnet50(weights=file)
    assert (ours.stride_in, ours.stem_pool, ours.recipe.name) == ("1x1", "ceil", "msra")
    assert torch.equal(ours.layer3[0].conv1.weight, net.layer3[0].conv1.weight)
    with pytest.raises(ValueError, match="build it with stride_in='1x1'"):
        resnet50(weights=file, stride_in="3x3")


def test_weights_of_another_network_are_refused(theirs, tmp_path):
    with pytest.raises(ValueError, match=r"resnet18\.pth: weights of another network.* in the file, .* here"):
        resnet50(weights=theirs[1])
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        resnet18(weights=tmp_path / "missing.pth")


@pytest.mark.data
def test_published_cifar_weights(shared):
    """Shortcut A padded on both sides, and ten classes."""
    net = cifar_resnet(20, weights=shared / "weights" / "cifar_resnet20.pth")
    assert net.fc.out_features == 10
