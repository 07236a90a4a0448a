import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import backbone
from backbone import load_weights, require_loaded, split_c4
from backbone.weights import read_weights, require_complete


@pytest.fixture
def net():
    return backbone.resnet18(num_classes=4)


def saved(tmp_path, content, name="w.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def test_load_report(tmp_path, net):
    state = backbone.resnet18(num_classes=9).state_dict()
    del state["layer1.0.bn1.weight"]
    state["momentum"] = torch.ones(1)
    report = load_weights(net, saved(tmp_path, state))
    assert report.missing == ("layer1.0.bn1.weight",)
    assert report.unused == ("momentum",)
    assert report.mismatched == {"fc.weight": ((4, 512), (9, 512)), "fc.bias": ((4,), (9,))}
    assert torch.equal(net.conv1.weight, state["conv1.weight"])
    assert report.recipe.name == "torchvision"


def test_load_into_split_network(tmp_path, net):
    source = backbone.resnet18()
    parts = split_c4(backbone.resnet18())
    report = load_weights(parts, saved(tmp_path, source.state_dict()))
    assert report.missing == ()
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    assert torch.equal(parts[1].layer4[0].conv1.weight, source.layer4[0].conv1.weight)


def test_safetensors_and_wrapped_files(tmp_path, net):
    state = backbone.resnet18(num_classes=4).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    assert load_weights(net, tmp_path / "w.safetensors").missing == ()
    assert load_weights(net, saved(tmp_path, {"state_dict": state, "epoch": 3})).missing == ()


def test_recipe_is_read_from_the_file(tmp_path):
    net = backbone.resnet50(stride_in="1x1", stem_pool="ceil")
    path = saved(tmp_path, {"recipe": "msra", "model": net.state_dict()})
    assert load_weights(net, path).recipe.name == "msra"


@pytest.mark.parametrize("options", [{"stem_pool": "ceil"}, {"stride_in": "1x1"}])
def test_contradicting_recipe_is_rejected(tmp_path, options):
    path = saved(tmp_path, backbone.resnet50().state_dict())
    with pytest.raises(ValueError, match="recipe 'msra'"):
        load_weights(backbone.resnet50(**options), path, recipe="msra")


def test_basic_blocks_ignore_the_stride_of_a_recipe(tmp_path, net):
    path = saved(tmp_path, net.state_dict())
    with pytest.raises(ValueError, match="stem_pool"):
        load_weights(net, path, recipe="msra")
    load_weights(backbone.resnet18(stem_pool="ceil", num_classes=4), path, recipe="msra")


def test_no_matching_tensors(tmp_path, net):
    with pytest.raises(ValueError, match=r"no tensor matches.*conv1.weight.*encoder"):
        load_weights(net, saved(tmp_path, {"encoder": torch.ones(2)}))
    with pytest.raises(ValueError, match="unknown recipe 'timm'"):
        load_weights(net, saved(tmp_path, {}), recipe="timm")
    with pytest.raises(FileNotFoundError):
        load_weights(net, tmp_path / "absent.pth")


class Malicious:
    def __reduce__(self):
        return (open, ("/tmp/resdet-was-here", "w"))


@pytest.mark.parametrize("write", [pickle.dump, lambda o, f: torch.save(o, f)])
def test_malicious_file_executes_nothing(tmp_path, net, write):
    path = tmp_path / "hostile.pkl"
    with path.open("wb") as file:
        write({"conv1.weight": Malicious()}, file)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(net, path)


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -10])
def test_truncated_file_raises(tmp_path, net, cut):
    path = saved(tmp_path, net.state_dict())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(net, path)


def caffe2_blobs(net):
    """Return the network's weights with Caffe2 names, as in detectron2's copies of the MSRA models."""
    letters = {
        "conv1": "branch2a",
        "bn1": "branch2a_bn",
        "conv2": "branch2b",
        "bn2": "branch2b_bn",
        "conv3": "branch2c",
        "bn3": "branch2c_bn",
        "downsample.0": "branch1",
        "downsample.1": "branch1_bn",
    }
    blobs = {
        "conv1_w": net.conv1.weight,
        "conv1_b": torch.zeros(64),
        "res_conv1_bn_s": net.bn1.weight,
        "res_conv1_bn_b": net.bn1.bias,
        "fc1000_w": net.fc.weight,
        "fc1000_b": net.fc.bias,
        "conv1_w_momentum": torch.ones(1),
    }
    for stage in range(1, 5):
        for i, block in enumerate(getattr(net, f"layer{stage}")):
            for name, caffe2_name in letters.items():
                module = dict(block.named_modules()).get(name)
                if module is None:
                    continue
                prefix = f"res{stage + 1}_{i}_{caffe2_name}_"
                if hasattr(module, "running_mean"):
                    blobs[prefix + "s"], blobs[prefix + "b"] = module.weight, module.bias
                else:
                    blobs[prefix + "w"] = module.weight
    return {k: v.detach().numpy() for k, v in blobs.items()}


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"blobs": b}, lambda b: {"model": b, "__author__": "Caffe2"}])
def test_caffe2_pickles_are_read(tmp_path, wrap):
    source = backbone.resnet50(stride_in="1x1", num_classes=3).eval()
    for m in source.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1)
            m.bias.data.normal_()
            m.running_var.fill_(1 - 1e-5)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(wrap(caffe2_blobs(source)), protocol=2))
    net = backbone.resnet50(stride_in="1x1", num_classes=3, norm="frozen_bn").eval()
    report = load_weights(net, tmp_path / "R-50.pkl")
    assert (report.missing, report.unused, report.recipe.name) == ((), (), "detectron2")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), source(x), rtol=1e-4, atol=1e-4)


def test_numpy_arrays_become_tensors(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"conv1.weight": np.ones((2, 3), np.float32)}))
    weights = read_weights(tmp_path / "a.pkl")
    tensors, recipe = weights.tensors, weights.recipe
    assert torch.equal(tensors["conv1.weight"], torch.ones(2, 3))
    assert recipe is None


def test_frozen_norms_need_loaded_weights(tmp_path):
    net = backbone.resnet18(norm="frozen_bn")
    with pytest.raises(ValueError, match=r"conv1 .*conv2_x .*conv3_x .*conv4_x .*conv5_x"):
        require_loaded(net, ())
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("layer4.1.conv2")}
    report = load_weights(net, saved(tmp_path, state))
    with pytest.raises(ValueError, match=r"in conv5_x \(1 tensors\)"):
        require_loaded(net, report.loaded)
    learning = backbone.resnet18(norm="frozen_bn", conv5_norm="bn")
    require_loaded(learning, load_weights(learning, saved(tmp_path, state)).loaded)
    require_loaded(backbone.resnet18(), ())


@pytest.mark.data
def test_real_weights(shared):
    folder = shared / "weights"
    full = backbone.resnet50(norm="frozen_bn", stride_in="1x1", stem_pool="ceil")
    report = load_weights(full, folder / "resnet50_abm_pruned8bit_folded_full.pth", recipe="v1_rgb")
    assert (report.missing, report.unused, report.mismatched) == ((), (), {})
    require_loaded(full, report.loaded)
    c4 = backbone.resnet50(norm="frozen_bn", conv5_norm="bn", stride_in="1x1", stem_pool="ceil")
    report = load_weights(c4, folder / "resnet50_c4_msra_caffe.pth", recipe="msra")
    require_loaded(c4, report.loaded)
    assert all(k.startswith(("layer4", "fc")) for k in report.missing)


@pytest.mark.data
def test_real_photos_get_the_documented_classes(shared):
    """../weights/README.md documents the ResNet-50's classes of four photos."""
    from torchvision.models import ResNet50_Weights
    from torchvision.transforms.v2 import functional as F

    from detection.data.image import read_image

    net = backbone.resnet50(norm="frozen_bn", stride_in="1x1", stem_pool="ceil").eval()
    recipe = load_weights(net, shared / "weights/resnet50_abm_pruned8bit_folded_full.pth", recipe="v1_rgb").recipe
    names = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    for photo, expected in {
        "000456": "trolleybus",
        "000542": "Egyptian cat",
        "001150": "Shih-Tzu",
        "004545": "sorrel",
    }.items():
        image = torch.from_numpy(read_image(shared / f"data/photos/{photo}.jpg").copy()).permute(2, 0, 1)
        image = F.center_crop(F.resize(image, [256], antialias=True), [224, 224])
        with torch.no_grad():
            assert names[int(net(recipe.normalise(image[None] / 255)).argmax())] == expected


def torchvision_like_caffe():
    """Return torchvision's ResNet-50 with the stride in the 1x1 convolutions and Caffe's pooling."""
    from torchvision.models import resnet50
    from torchvision.ops.misc import FrozenBatchNorm2d

    net = resnet50(norm_layer=FrozenBatchNorm2d)
    net.maxpool = torch.nn.MaxPool2d(3, 2, 0, ceil_mode=True)
    for layer in (net.layer2, net.layer3, net.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return net.eval()


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "recipe"), [("resnet50_abm_pruned8bit_folded_full.pth", "v1_rgb"), ("resnet50_c4_msra_caffe.pth", "msra")]
)
def test_real_weights_equal_torchvision(shared, file, recipe):
    """Compare c2, c3 and c4 on a photo, and the logits of weights with a classifier."""
    from detection.data.image import read_image

    path = shared / "weights" / file
    net = backbone.resnet50(norm="frozen_bn", stride_in="1x1", stem_pool="ceil").eval()
    normalise = load_weights(net, path, recipe=recipe).recipe.normalise
    reference = torchvision_like_caffe()
    reference.load_state_dict(torch.load(path, weights_only=True), strict=False)
    image = torch.from_numpy(read_image(shared / "data/photos/000542.jpg").copy()).permute(2, 0, 1).float()
    if recipe == "msra":
        x = image.flip(0) - torch.tensor([103.06, 115.90, 123.15])[:, None, None]
    else:
        x = image / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        x = x / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        maps = net.features(normalise(image[None] / 255))
        stem = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x[None]))))
        c2 = reference.layer1(stem)
        c3 = reference.layer2(c2)
        c4 = reference.layer3(c3)
    for name, expected in {"c2": c2, "c3": c3, "c4": c4}.items():
        torch.testing.assert_close(maps[name], expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    if recipe == "v1_rgb":
        with torch.no_grad():
            torch.testing.assert_close(net(normalise(image[None] / 255)), reference(x[None]), rtol=0, atol=1e-3)


def test_weights_of_a_deeper_network_are_rejected(tmp_path):
    path = saved(tmp_path, backbone.resnet34().state_dict())
    report = load_weights(backbone.resnet18(), path)
    with pytest.raises(ValueError, match=r"of another network, with \d+ more tensors"):
        require_complete(report)


def test_linear_classifier_does_not_imply_detectron2(tmp_path):
    state = backbone.cifar_resnet(20).state_dict()
    state = {f"module.{k.replace('fc.', 'linear.')}": v for k, v in state.items()}
    weights = read_weights(saved(tmp_path, state))
    assert (weights.layout, weights.recipe) == ("torchvision", None)


def test_grouped_networks_reject_caffe_recipes(tmp_path):
    net = backbone.resnext50_32x4d(stride_in="1x1")
    with pytest.raises(ValueError, match="grouped ones"):
        load_weights(net, saved(tmp_path, net.state_dict()), recipe="detectron2")


def test_all_pickle_protocols(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"conv1.weight": array}, protocol=protocol))
        assert torch.equal(read_weights(tmp_path / "a.pkl").tensors["conv1.weight"], torch.arange(6.0).reshape(2, 3))
