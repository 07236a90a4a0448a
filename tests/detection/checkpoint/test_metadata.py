"""Checkpoint metadata in the current format, older ones, and an unknown one."""

import pytest
import torch

from detection import build_model, load_detector
from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import FORMAT, KEY, Classes, describe, parse_metadata
from detection.config import Config, ModelConfig

CONFIG = Config(model=ModelConfig(backbone="resnet18", norm="bn", freeze_at=0))
CLASSES = Classes(("cat", "dog"), (17, 18))


def test_round_trip():
    metadata = describe(CONFIG, CLASSES)
    assert parse_metadata(metadata.to_dict(), "here") == metadata
    assert metadata.config("here") == CONFIG
    assert metadata.config("here", ["solver.max_iter=7"]).solver.max_iter == 7
    assert metadata.backbone == {"source": "resdet", "name": "resnet18"}
    timm = describe(Config(model=ModelConfig(backbone="timm://convnext_atto")), CLASSES)
    assert timm.backbone == {"source": "timm", "name": "timm://convnext_atto"}
    assert describe(CONFIG, CLASSES, module="OneMap").is_module


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "d.pth"
    save_detector(path, build_model(CONFIG.model, 2), CONFIG, CLASSES)
    return path


def rewrite(path, change):
    content = torch.load(path, weights_only=True)
    change(content[KEY])
    torch.save(content, path)


def test_first_format_is_loaded(saved):
    def first(entry):
        entry["format"] = 1
        del entry["backbone"]

    rewrite(saved, first)
    model, names = load_detector(saved)
    assert names == ("cat", "dog")
    assert type(model.trunk).__name__ == "Trunk"


@pytest.mark.parametrize(("number", "message"), [
    (FORMAT + 1, f"has checkpoint format {FORMAT + 1}, and this version of resdet reads formats up to {FORMAT}: update"),
    (0, "its checkpoint format is 0, wanted a number from 1"),
    (None, "its checkpoint format is None"),
])  # fmt: skip
def test_unknown_formats_raise(saved, number, message):
    rewrite(saved, lambda entry: entry.update(format=number))
    with pytest.raises(ValueError, match=message):
        load_detector(saved)


def test_custom_module_requires_the_model(saved):
    rewrite(saved, lambda entry: entry.update(backbone={"source": "module", "name": "OneMap"}))
    with pytest.raises(ValueError, match=r"on a module of your own \(OneMap\).*pass it as model="):
        load_detector(saved)
    model = build_model(CONFIG.model, 2)
    loaded, names = load_detector(saved, model=model)
    assert loaded is model
    assert names == ("cat", "dog")
