import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backbone import resnet18, resnet50
from backbone.weights import read_weights
from detection import build_model, load_config, load_detector, load_weights
from detection.checkpoint.detector import save_detector
from detection.checkpoint.keys import from_detectron2, to_detectron2
from detection.checkpoint.label_maps import class_names
from detection.checkpoint.metadata import Classes
from detection.cli import run

CONFIGS = {"c4": "faster_rcnn_r50_c4_1x", "dc5": "faster_rcnn_r50_dc5_1x", "fpn": "faster_rcnn_r50_fpn_1x"}
SMALL = ["model.backbone=resnet18", "model.roi.fc_channels=16", "model.fpn_channels=8", "model.rpn.channels=8"]


def small(architecture, *keys):
    """Return a small detector of an architecture; dilated blocks are bottlenecks, which alone support dilation."""
    return load_config(CONFIGS[architecture] + ".yaml", [*SMALL, "model.weights=null", *keys])


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def convert_weights(*argv):
    return run("convert-weights", [str(a) for a in argv])


@pytest.mark.parametrize("architecture", ["c4", "dc5", "fpn"])
@pytest.mark.parametrize("ending", ["pth", "pkl"])
def test_detector_round_trip(architecture, ending, tmp_path):
    config = small(architecture)
    model = build_model(config.model, 3)
    save_detector(tmp_path / "a.pth", model, config, Classes(("x", "y", "z"), (4, 5, 9)))
    assert convert_weights(tmp_path / "a.pth", tmp_path / f"b.{ending}", "--to", "detectron2") == 0
    assert convert_weights(tmp_path / f"b.{ending}", tmp_path / "c.pth") == 0
    back, classes = load_detector(tmp_path / "c.pth")
    equal(back.state_dict(), model.state_dict())
    assert classes == ("x", "y", "z")
    other = build_model(config.model, 3)
    load_weights(other, tmp_path / f"b.{ending}")
    equal(other.state_dict(), model.state_dict())


def test_detectron2_names_and_row_order(tmp_path):
    """Keys and row order as in detectron2's models, where the background is the last row of the class layer."""
    model = build_model(small("c4").model, 3)
    state = model.state_dict()
    converted = to_detectron2(state)
    for name in (
        "backbone.stem.conv1.norm.running_var",
        "backbone.res4.0.shortcut.norm.bias",
        "backbone.res2.1.conv2.weight",
        "roi_heads.res5.1.conv2.norm.weight",
        "proposal_generator.rpn_head.anchor_deltas.bias",
    ):
        assert name in converted
    rows = state["roi_head.classes.weight"]
    assert torch.equal(converted["roi_heads.box_predictor.cls_score.weight"], torch.cat((rows[1:], rows[:1])))
    assert torch.equal(converted["roi_heads.box_predictor.bbox_pred.weight"], state["roi_head.deltas.weight"])
    pyramid = to_detectron2(build_model(small("fpn").model, 3).state_dict())
    assert {
        "backbone.bottom_up.res5.0.shortcut.weight",
        "backbone.fpn_lateral2.bias",
        "backbone.fpn_output5.weight",
    } <= set(pyramid)
    assert "roi_heads.box_head.fc2.weight" in pyramid
    old = converted | {
        "pixel_mean": torch.zeros(3),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(1),
    }
    equal(from_detectron2(old), state)


def test_unsupported_layouts_raise(tmp_path, capsys):
    config = small("c4", "model.conv5_norm=none")
    save_detector(tmp_path / "a.pth", build_model(config.model, 2), config, Classes(("x", "y"), (1, 2)))
    assert convert_weights(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "detectron2") == 2
    assert "no counterpart for 5 tensors: roi_head.head.layer4.0.conv1.bias" in capsys.readouterr().err
    assert convert_weights(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "torchvision") == 2
    assert "--backbone writes only the backbone" in capsys.readouterr().err
    assert not (tmp_path / "b.pth").exists()


def test_backbone_of_a_detector(tmp_path, capsys):
    config = small("fpn")
    model = build_model(config.model, 2)
    save_detector(tmp_path / "a.pth", model, config, Classes(("x", "y"), (1, 2)))
    assert convert_weights(tmp_path / "a.pth", tmp_path / "b.safetensors", "--to", "torchvision", "--backbone") == 0
    weights = read_weights(tmp_path / "b.safetensors")
    assert weights.recipe == "detectron2"
    equal(weights.tensors, model.trunk.body.state_dict())


@pytest.mark.parametrize(
    "steps", [("torchvision",), ("detectron2", "torchvision"), ("resdet", "detectron2", "torchvision")]
)
def test_network_round_trip(tmp_path, steps):
    """torchvision's ResNet loads the last file unchanged."""
    state = resnet50(num_classes=3, zero_init_residual=True).state_dict()
    at = tmp_path / "0.pth"
    torch.save(state, at)
    for i, step in enumerate(steps, 1):
        to = tmp_path / f"{i}.pth"
        assert convert_weights(at, to, "--to", step, "--recipe", "torchvision") == 0
        at = to
    result = torch.load(at, weights_only=True)
    equal(result, state)


def test_recipe_must_be_known_and_is_saved(tmp_path, capsys):
    save_file(resnet18(num_classes=2, stem_pool="ceil").state_dict(), tmp_path / "a.safetensors")
    assert convert_weights(tmp_path / "a.safetensors", tmp_path / "b.pth") == 2
    assert "set --recipe" in capsys.readouterr().err
    assert convert_weights(tmp_path / "a.safetensors", tmp_path / "b.pth", "--recipe", "msra") == 0
    assert read_weights(tmp_path / "b.pth").recipe == "msra"
    assert convert_weights(tmp_path / "b.pth", tmp_path / "c.safetensors", "--to", "detectron2") == 2
    assert "Caffe's ceil-mode pooling" in capsys.readouterr().err
    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "plain.pth")
    assert (
        convert_weights(
            tmp_path / "plain.pth", tmp_path / "c.safetensors", "--to", "detectron2", "--recipe", "torchvision"
        )
        == 0
    )
    assert "INPUT.FORMAT RGB MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]" in capsys.readouterr().err
    result = read_weights(tmp_path / "c.safetensors")
    assert (result.recipe, result.layout) == ("torchvision", "detectron2")
    assert convert_weights(tmp_path / "b.pth", tmp_path / "d.pth", "--recipe", "torchvision") == 2
    assert "contains weights of recipe 'msra'" in capsys.readouterr().err


def test_model_zoo_detector_is_converted(tmp_path, capsys):
    """In the published format: a pickle of arrays without configuration and classes."""
    model = build_model(load_config("faster_rcnn_r50_c4_1x.yaml", ["model.backbone=resnet18"]).model, 20)
    arrays = {name: tensor.numpy() for name, tensor in to_detectron2(model.state_dict()).items()}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    assert convert_weights(tmp_path / "zoo.pkl", tmp_path / "out.pth") == 2
    assert "set --config" in capsys.readouterr().err
    assert convert_weights(tmp_path / "zoo.pkl", tmp_path / "out.pth", "--config", "faster_rcnn_r50_c4_1x.yaml") == 2
    assert "does not hold this detector's weights" in capsys.readouterr().err
    config = tmp_path / "r18.yaml"
    config.write_text("model: {backbone: resnet18, recipe: detectron2, weights: null}\n")
    assert convert_weights(tmp_path / "zoo.pkl", tmp_path / "out.pth", "--config", config) == 0
    back, classes = load_detector(tmp_path / "out.pth")
    equal(back.state_dict(), model.state_dict())
    assert classes[0] == "aeroplane"
    assert classes[-1] == "tvmonitor"
    assert convert_weights(tmp_path / "zoo.pkl", tmp_path / "out.pth", "--config", config) == 2
    assert "exists" in capsys.readouterr().err


def test_known_class_names():
    coco = class_names(None, 80)
    assert (coco.names[0], coco.category_ids[0]) == ("person", 1)
    assert (coco.names[-1], coco.category_ids[-1]) == ("toothbrush", 90)
    assert class_names("a,b", 2) == Classes(("a", "b"), (1, 2))
    with pytest.raises(ValueError, match="set --classes"):
        class_names(None, 3)
    with pytest.raises(ValueError, match="3 classes, but 2 different names"):
        class_names("a,b,b", 3)


def test_other_contradictions(tmp_path, capsys):
    config = small("c4")
    model = build_model(config.model, 2)
    other = build_model(small("c4", "model.recipe=torchvision", "model.stride_in=1x1").model, 2)
    torch.save({"model": to_detectron2(model.state_dict())}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="trained with recipe 'detectron2', the detector has 'torchvision'"):
        load_weights(other, tmp_path / "a.pth")
    ceil = build_model(small("c4", "model.stem_pool=ceil").model, 2)
    with pytest.raises(ValueError, match="stem_pool='pad1', this one has stem_pool='ceil'"):
        load_weights(ceil, tmp_path / "a.pth")
    torch.save({"conv9.weight": torch.zeros(3)}, tmp_path / "b.pth")
    assert convert_weights(tmp_path / "b.pth", tmp_path / "c.pth", "--recipe", "torchvision") == 2
    assert "not part of a supported ResNet" in capsys.readouterr().err
    assert convert_weights(tmp_path / "a.pth", tmp_path / "c.onnx", "--backbone") == 2
    assert "expected .pth or .safetensors" in capsys.readouterr().err
    assert np.array(list(tmp_path.glob("c*"))).size == 0


def test_files_contain_their_metadata(tmp_path):
    config = small("c4")
    save_detector(tmp_path / "a.pth", build_model(config.model, 2), config, Classes(("x", "y"), (1, 2)))
    assert convert_weights(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "detectron2") == 0
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert content["recipe"] == "detectron2"
    assert json.dumps(content["resdet"]["classes"]) == '["x", "y"]'


def test_detectron2_detector_is_evaluated_and_fine_tuned(tmp_path):
    """Its file has neither configuration nor classes: both are set on the command line."""
    config = tmp_path / "r18.yaml"
    config.write_text("_base_: quickstart.yaml\nmodel: {recipe: detectron2, norm: frozen_bn, conv5_norm: frozen_bn}\n")
    keys = ["data.train=4", "data.val=2", "data.short_side=[64]", "data.max_side=80", "data.workers=0"]
    keys += ["pretrain.iterations=0", "solver.batch_size=2", "solver.max_iter=1", "model.roi.batch_per_image=8"]
    loaded = load_config(str(config), keys)
    for count in (6, 3):
        model = build_model(loaded.model, count)
        torch.save({"model": to_detectron2(model.state_dict())}, tmp_path / f"{count}.pth")
    argv = ["--config", str(config), "--output", str(tmp_path / "out"), *keys]
    assert run("train", [*argv, "--eval-only", "--weights", str(tmp_path / "6.pth")]) == 0
    assert "AP" in json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert run("train", [*argv, "--eval-only", "--weights", str(tmp_path / "3.pth")]) == 2
    assert run("train", [*argv, "--weights", str(tmp_path / "3.pth")]) == 0
    trained = torch.load(tmp_path / "out" / "best.pth", weights_only=True)["model"]
    assert torch.equal(trained["trunk.conv1.weight"], model.state_dict()["trunk.conv1.weight"])
    assert len(trained["roi_head.classes.bias"]) == 7
    assert "its class and box layers are left out" in (tmp_path / "out" / "log.txt").read_text()


def test_backbone_of_a_training_checkpoint_and_invalid_options(tmp_path, capsys):
    config = small("c4")
    model = build_model(config.model, 2)
    save_detector(tmp_path / "a.pth", model, config, Classes(("x", "y"), (1, 2)))
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    content["state_dict"] = {f"model.{k}": v for k, v in content.pop("model").items()}
    torch.save(content, tmp_path / "last.pth")
    assert convert_weights(tmp_path / "last.pth", tmp_path / "b.pth", "--backbone") == 0
    assert torch.equal(read_weights(tmp_path / "b.pth").tensors["conv1.weight"], model.trunk.conv1.weight)
    assert convert_weights(tmp_path / "a.pth", tmp_path / "c.pth", "--classes", "q,r") == 2
    assert "is not one, or contains them" in capsys.readouterr().err
    assert convert_weights(tmp_path / "a.pth", tmp_path / "c.pth", "--recipe", "msra") == 2


def test_unsupported_detectron2_detectors_raise(tmp_path, capsys):
    torch.save(
        {
            "model": {
                "proposal_generator.rpn_head.conv.weight": torch.zeros(1),
                "backbone.stem.conv1.weight": torch.zeros(1),
            }
        },
        tmp_path / "rpn.pth",
    )
    assert convert_weights(tmp_path / "rpn.pth", tmp_path / "c.pth", "--config", "faster_rcnn_r50_c4_1x.yaml") == 2
    assert "detectron2 detector of an unsupported kind" in capsys.readouterr().err


def test_other_pixel_mean_than_the_recipes_raises(tmp_path):
    state = to_detectron2(build_model(small("c4").model, 2).state_dict())
    torch.save({"model": state | {"pixel_mean": torch.tensor([103.53, 116.28, 123.675])}}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth").recipe == "detectron2"
    torch.save({"model": state | {"pixel_mean": torch.tensor([123.675, 116.28, 103.53])}}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="no recipe is defined for these weights"):
        read_weights(tmp_path / "b.pth")


def test_non_finite_weights_and_weights_of_data_parallel(tmp_path):
    state = to_detectron2(build_model(small("c4").model, 2).state_dict())
    state["backbone.stem.conv1.weight"][0] = float("nan")
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
    config = tmp_path / "c.yaml"
    config.write_text("model: {backbone: resnet18, recipe: detectron2, weights: null, rpn: {channels: 8}}\n")
    assert convert_weights(tmp_path / "a.pth", tmp_path / "b.pth", "--config", config, "--classes", "x,y") == 0
    assert load_detector(tmp_path / "b.pth")[1] == ("x", "y")
