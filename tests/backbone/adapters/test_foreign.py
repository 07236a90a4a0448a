"""timm's networks as backbones: their maps are timm's own, what is frozen stays, and files of weights are read safely."""

import pytest
import torch

from backbone import FeatureSpec
from backbone.adapters.foreign import TimmBackbone, TimmResNet, timm_backbone

timm = pytest.importorskip("timm")
IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["convnext_atto", "efficientnet_b0", "regnetx_002"])
def test_maps_are_timms(name):
    torch.manual_seed(0)
    backbone = timm_backbone(f"timm://{name}", norm="bn", freeze_at=0).eval()
    theirs = timm.create_model(name, features_only=True).eval()
    theirs.load_state_dict(backbone.net.state_dict(), strict=False)
    maps, wanted = backbone(IMAGE), theirs(IMAGE)
    assert [spec.stride for spec in backbone.specs.values()] == [4, 8, 16, 32]
    for key, spec, theirs_map in zip(maps, backbone.specs.values(), wanted[-4:], strict=True):
        assert maps[key].shape[1] == spec.channels
        assert torch.equal(maps[key], theirs_map)
        assert key == f"c{spec.stride.bit_length() - 1}"


@pytest.mark.parametrize("name", ["resnet18", "resnet50d"])
def test_a_resnet_is_split(name):
    torch.manual_seed(0)
    backbone = timm_backbone(f"timm://{name}", architecture="c4", norm="bn", freeze_at=0).eval()
    assert isinstance(backbone, TimmResNet)
    trunk, conv5 = backbone.split_c4()
    c4 = trunk(IMAGE)
    assert c4.shape == (1, trunk.spec.channels, 4, 6)
    assert trunk.spec.stride == 16
    whole = timm.create_model(name).eval()
    whole.load_state_dict(backbone.net.state_dict(), strict=False)
    assert torch.equal(conv5(c4), whole.forward_features(IMAGE))


def test_other_networks_give_one_map_to_c4_and_dc5():
    backbone = timm_backbone("timm://convnext_atto", architecture="c4")
    assert isinstance(backbone, TimmBackbone)
    assert backbone.specs == {"c4": FeatureSpec(160, 16)}
    assert timm_backbone("timm://convnext_atto", architecture="dc5").specs == {"c5": FeatureSpec(320, 32)}


@pytest.mark.parametrize(("name", "frozen", "learning"), [
    ("convnext_atto", "stages_0.blocks.0.norm.weight", "stages_1.blocks.0.norm.weight"),
    ("efficientnet_b0", "blocks.1.0.conv_pw.weight", "blocks.2.0.conv_pw.weight"),
    ("resnet18", "layer1.0.conv1.weight", "layer2.0.conv1.weight"),
])  # fmt: skip
def test_freezing(name, frozen, learning):
    backbone = timm_backbone(f"timm://{name}", freeze_at=2)
    trainable = {name for name, p in backbone.net.named_parameters() if p.requires_grad}
    assert frozen not in trainable
    assert learning in trainable
    # frozen batch norms change in no mode
    backbone.train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone(IMAGE)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert all(p.requires_grad for p in timm_backbone(f"timm://{name}", norm="bn", freeze_at=0).parameters())


def test_a_file_of_weights(tmp_path):
    source = timm.create_model("convnext_atto")
    torch.save(source.state_dict(), tmp_path / "atto.pth")
    backbone = timm_backbone("timm://convnext_atto", pretrained=str(tmp_path / "atto.pth"))
    assert torch.equal(backbone.net.stages_1.blocks[0].norm.weight, source.stages[1].blocks[0].norm.weight)
    assert torch.equal(backbone.net.stem_0.weight, source.stem[0].weight)


def test_recipes_are_the_networks_own():
    assert timm_backbone("timm://convnext_atto").recipe.mean == (0.485, 0.456, 0.406)
    assert timm_backbone("timm://tf_efficientnetv2_b0").recipe.mean != timm_backbone("timm://inception_v3").recipe.mean


@pytest.mark.parametrize(("name", "norm", "message"), [
    ("timm://convnex_atto", "bn", "timm has no network 'convnex_atto'"),
    ("timm://convnext_atto", "gn", "takes model.norm=frozen_bn or bn, got gn"),
])  # fmt: skip
def test_what_cannot_be_had_is_named(name, norm, message):
    with pytest.raises(ValueError, match=message):
        timm_backbone(name, norm=norm)
