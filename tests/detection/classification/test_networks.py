import dataclasses

import pytest
import torch
from torch import nn

from backbone import RECIPES, cifar_resnet
from detection.classification.config import ClassifierConfig, NetworkConfig
from detection.classification.networks import build_network, read_classifier
from detection.config import config_to_dict

SMALL = NetworkConfig(name="cifar_resnet20", width=8)


def on_meta(config, classes=5):
    with torch.device("meta"):
        return build_network(config, classes)


@pytest.fixture
def small():
    """A network of 20 layers and 8, 16, 32 channels, with statistics that are not those of the start."""
    net = build_network(SMALL, 3)
    net.bn1.running_mean.normal_()
    return net.eval()


def save(path, net, **config):
    """As a run writes its best.pth."""
    tree = config_to_dict(ClassifierConfig(network=dataclasses.replace(SMALL, **config)))
    about = {"format": 1, "config": tree, "classes": ["ant", "bee", "cow"]}
    torch.save({"classifier": about, "recipe": "torchvision", "model": net.state_dict()}, path)


def test_widths_double_from_stage_to_stage():
    assert [spec.channels for spec in on_meta(SMALL).specs.values()] == [8, 8, 16, 32]
    assert [s.channels for s in on_meta(NetworkConfig("resnet18", width=16)).specs.values()] == [16, 16, 32, 64, 128]
    assert [s.channels for s in on_meta(NetworkConfig("resnet18")).specs.values()] == [64, 64, 128, 256, 512]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_the_recipe_says_where_bottlenecks_stride(recipe):
    net = on_meta(NetworkConfig("resnet50", recipe=recipe))
    assert (net.stride_in, net.stem_pool) == (RECIPES[recipe].stride_in, RECIPES[recipe].stem_pool)


def test_cifars_networks_have_no_pooling_whatever_the_recipe():
    assert on_meta(NetworkConfig("cifar_resnet20", recipe="msra")).stem_pool == "none"


def test_options_reach_the_network():
    net = build_network(dataclasses.replace(SMALL, norm="gn", shortcut="none"), 5)
    assert isinstance(net.bn1, nn.GroupNorm)
    assert net.layer2[0].downsample is None
    assert net.fc.out_features == 5
    zero = build_network(dataclasses.replace(SMALL, zero_init_residual=True), 5)
    assert not zero.layer1[0].bn2.weight.any()
    assert zero.layer1[0].bn1.weight.all()


@pytest.mark.parametrize(
    ("config", "words"), [({"name": "resnet51"}, "resnet50"), ({"recipe": "caffe"}, "torchvision")]
)
def test_unknown_names_are_refused_with_those_that_are_known(config, words):
    with pytest.raises(ValueError, match=words):
        on_meta(dataclasses.replace(SMALL, **config))


def test_a_runs_file_says_its_network_and_classes(small, tmp_path):
    save(tmp_path / "best.pth", small)
    found = read_classifier(tmp_path / "best.pth")
    assert found.classes == ("ant", "bee", "cow")
    assert found.config.network == SMALL
    assert found.recipe is RECIPES["torchvision"]
    assert not found.net.training
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(found.net(x), small(x))


def test_weights_alone_want_a_name(tmp_path):
    net = cifar_resnet(20, num_classes=3)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    found = read_classifier(tmp_path / "net.pth", "cifar_resnet20", "msra")
    assert (found.classes, found.config, found.recipe) == (None, None, RECIPES["msra"])
    with pytest.raises(ValueError, match=r"do not match|no tensor fits|another network"):
        read_classifier(tmp_path / "net.pth")  # taken for a resnet50


def test_a_network_that_is_given_overrides_the_files(small, tmp_path):
    save(tmp_path / "best.pth", small, width=4)  # a file that says another width than it has
    with pytest.raises(ValueError):
        read_classifier(tmp_path / "best.pth")
    assert read_classifier(tmp_path / "best.pth", network_config=SMALL).net.fc.in_features == 32


def test_weights_of_a_deeper_network_do_not_fill_a_shallower_one(tmp_path):
    torch.save(cifar_resnet(32).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="another network"):
        read_classifier(tmp_path / "net.pth", "cifar_resnet20")


def test_a_backbone_is_no_classifier(small, tmp_path):
    torch.save({k: v for k, v in small.state_dict().items() if not k.startswith("fc")}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="backbone"):
        read_classifier(tmp_path / "net.pth")
    with pytest.raises(FileNotFoundError):
        read_classifier(tmp_path / "none.pth")
