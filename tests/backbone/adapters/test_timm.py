import pytest
import torch

from backbone import resnet18, resnet50
from backbone.adapters.timm import FeaturesOnly


def test_features_only_interface():
    net = FeaturesOnly(resnet50(), out_indices=(2, 4))
    assert net.feature_info.channels() == [512, 2048]
    assert net.feature_info.reduction() == [8, 32]
    assert net.feature_info.module_name() == ["layer2", "layer4"]
    assert net.feature_info.channels(0) == 64
    assert net.feature_info.get_dicts(["num_chs"]) == [{"num_chs": 512}, {"num_chs": 2048}]
    maps = net(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(1, 512, 8, 12), (1, 2048, 2, 3)]
    assert len(FeaturesOnly(resnet18())(torch.rand(1, 3, 64, 64))) == 5
    with pytest.raises(ValueError, match=r"among 0..4"):
        FeaturesOnly(resnet18(), out_indices=(5,))


def test_equals_timm():
    """Key names, feature maps and feature_info equal timm's."""
    timm = pytest.importorskip("timm")
    reference = timm.create_model("resnet18", pretrained=False).eval()
    net = resnet18().eval()
    net.load_state_dict(reference.state_dict())
    features = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(0, 1, 4)).eval()
    features.load_state_dict(reference.state_dict(), strict=False)
    features_only = FeaturesOnly(net, out_indices=(0, 1, 4))
    for key in ("channels", "reduction", "module_name"):
        assert getattr(features_only.feature_info, key)() == getattr(features.feature_info, key)()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(features_only(x), features(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(net(x), reference(x), rtol=1e-6, atol=1e-6)
