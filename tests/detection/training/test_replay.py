import dataclasses
import functools
import math

import pytest
import torch

from detection.checkpoint.metadata import KEY, Classes
from detection.config import AnchorConfig, Config, ModelConfig, RoIConfig, RPNConfig
from detection.modeling.build import build_model
from detection.training.replay import replay, save_step

CLASSES = Classes(("cat", "dog"), (1, 2))
CONFIG = Config(
    model=ModelConfig(
        backbone="resnet18",
        norm="frozen_bn",
        anchors=AnchorConfig((16, 32)),
        rpn=RPNConfig(channels=8, after_nms_train=5),
        roi=RoIConfig(resolution=2, batch_per_image=4),
    )
)


@functools.cache
def model():
    torch.manual_seed(0)
    return build_model(CONFIG.model, 2).train()


def step(**changes):
    image = torch.randint(256, (3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    target = {"boxes": torch.tensor([[4.0, 4, 30, 28]]), "labels": torch.tensor([2])}
    content = {"step": 7, "seed": 3, "precision": "float32", "files": ["a.jpg"], "images": [image], "targets": [target]}
    return content | changes


def saved(path, losses=None, module=None, **changes):
    save_step(path, model(), CONFIG, CLASSES, step(**changes), losses or {}, module)
    return torch.load(path, weights_only=True)


def test_a_saved_step_repeats_its_losses(tmp_path):
    about = step()
    images = [image.float() / 255 for image in about["images"]]
    losses = model()(images, about["targets"], generator=torch.Generator().manual_seed(about["seed"]))
    content = saved(tmp_path / "step.pth", losses)
    again, non_finite = replay(content)
    assert non_finite == []
    assert again == pytest.approx({name: float(value.detach()) for name, value in losses.items()}, rel=1e-5)
    assert content["losses"] == pytest.approx(again, rel=1e-5)
    assert content["step"] == 7


def test_non_finite_weights_are_named(tmp_path):
    content = saved(tmp_path / "step.pth")
    content["model"] = {k: v.clone() for k, v in content["model"].items()}
    content["model"]["rpn.objectness.bias"][0] = math.nan
    losses, non_finite = replay(content)
    assert math.isnan(losses["loss_objectness"])
    assert "rpn.objectness.bias" in non_finite[0]
    assert any("rpn.objectness" in line and "its input is finite" in line for line in non_finite[1:])


def test_a_step_in_bf16_is_replayed_in_bf16_unless_asked_otherwise(tmp_path):
    content = saved(tmp_path / "step.pth", precision="bf16")
    coarse, exact = replay(content)[0], replay(content, "float32")[0]
    assert coarse != exact
    assert coarse == pytest.approx(exact, rel=0.2, abs=0.1)


def test_the_step_of_a_module_of_ones_own_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Mine"):
        replay(saved(tmp_path / "step.pth", module="Mine"))


def test_a_step_without_its_configuration_is_refused(tmp_path):
    content = saved(tmp_path / "step.pth")
    content[KEY] = dict(content[KEY], format=99)
    with pytest.raises(ValueError, match="format 99"):
        replay(content)


def test_a_step_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "step.pth"
    saved(path)
    before = path.read_bytes()

    def full(content, part):
        part.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="cannot be written"):
        save_step(path, model(), dataclasses.replace(CONFIG, seed=1), CLASSES, step(), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
