"""Initial weights of training: a backbone's, or a detector's with the same or other classes."""

import logging

import pytest
import torch

from detection import build_model
from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import Classes
from detection.checkpoint.start import start_weights
from detection.config import Config, ModelConfig

MODEL = {"backbone": "resnet18", "norm": "bn", "freeze_at": 0}
CAT_DOG = Classes(("cat", "dog"), (17, 18))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    config = Config(model=ModelConfig(**MODEL))
    model = build_model(config.model, 2)
    save_detector(tmp_path / "d.pth", model, config, CAT_DOG)
    return model.state_dict(), tmp_path / "d.pth"


def start(path, names):
    torch.manual_seed(1)
    config = ModelConfig(**MODEL, weights=str(path))
    model = build_model(config, len(names))
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    start_weights(model, config, Classes(names, tuple(range(1, len(names) + 1))))
    return model.state_dict(), fresh


def test_same_classes_load_all_weights(saved, caplog):
    old, path = saved
    new, _ = start(path, ("cat", "dog"))
    assert all(torch.equal(new[k], v) for k, v in old.items())
    assert "other classes" not in caplog.text


def test_rows_are_remapped_by_class_name(saved, caplog):
    old, path = saved
    with caplog.at_level(logging.WARNING):
        new, fresh = start(path, ("ant", "dog", "cat"))
    assert "rows of dog, cat are kept; ant begin anew; all other layers are loaded" in caplog.text
    for kind in ("weight", "bias"):
        classes, deltas = f"roi_head.classes.{kind}", f"roi_head.deltas.{kind}"
        for place, source in ((0, old[classes][0]), (2, old[classes][2]), (3, old[classes][1]), (1, fresh[classes][1])):
            assert torch.equal(new[classes][place], source)
        assert torch.equal(new[deltas][:4], fresh[deltas][:4])
        assert torch.equal(new[deltas][4:8], old[deltas][4:8])  # dog
        assert torch.equal(new[deltas][8:], old[deltas][:4])  # cat
    assert all(
        torch.equal(v, old[k]) for k, v in new.items() if not k.startswith(("roi_head.classes", "roi_head.deltas"))
    )


def test_no_common_class_loads_only_the_background(saved, caplog):
    old, path = saved
    new, fresh = start(path, ("ant", "bee"))
    assert "rows of no class are kept; ant, bee begin anew" in caplog.text
    assert torch.equal(new["roi_head.classes.weight"][0], old["roi_head.classes.weight"][0])
    assert torch.equal(new["roi_head.classes.weight"][1:], fresh["roi_head.classes.weight"][1:])
    assert torch.equal(new["roi_head.deltas.weight"], fresh["roi_head.deltas.weight"])
    assert torch.equal(new["rpn.conv.weight"], old["rpn.conv.weight"])


def test_incompatible_detector_raises(saved):
    _, path = saved
    config = ModelConfig(**MODEL, architecture="dc5", weights=str(path))
    with pytest.raises(ValueError, match="does not hold this detector's weights"):
        start_weights(build_model(config, 3), config, Classes(("a", "b", "c"), (1, 2, 3)))


def test_timm_weights_are_for_timm_backbones():
    config = ModelConfig(**MODEL, weights="timm://resnet18")
    with pytest.raises(ValueError, match=r"is for model.backbone=timm://NAME, and the backbone is resnet18"):
        start_weights(build_model(config, 2), config, CAT_DOG)


@pytest.mark.parametrize("architecture", ["c4", "fpn"])
def test_file_is_loaded_into_a_timm_backbone(architecture, tmp_path):
    timm = pytest.importorskip("timm")
    source = timm.create_model("resnet18")
    torch.save(source.state_dict(), tmp_path / "r18.pth")
    config = ModelConfig(architecture=architecture, backbone="timm://resnet18", weights=str(tmp_path / "r18.pth"))
    model = build_model(config, 2)
    start_weights(model, config, CAT_DOG)
    trunk = model.trunk.body.body.net if architecture == "fpn" else model.trunk
    assert torch.equal(trunk.layer3[1].conv2.weight, source.layer3[1].conv2.weight)
    head = model.roi_head.head if architecture == "c4" else trunk
    assert torch.equal(head.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
