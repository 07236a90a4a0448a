"""Checkpoint metadata in the current format, older ones, and an unknown one."""

import pytest
import torch

from detection import build_model, load_detector
from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import CLASSIFIER, FORMAT, KEY, Classes, classifier_entry, describe, parse_metadata
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
    (None, "its format is None, wanted an integer"),
])  # fmt: skip
def test_unknown_formats_raise(saved, number, message):
    rewrite(saved, lambda entry: entry.update(format=number))
    with pytest.raises(ValueError, match=message):
        load_detector(saved)


DAMAGED = {
    "another project's": (lambda card: "v1.2", r"its entry 'resdet' is 'v1.2', wanted a dictionary"),
    "empty": (lambda card: {}, r"its entry 'resdet' has no 'format'"),
    "no config": (lambda card: {k: v for k, v in card.items() if k != "config"}, r"'resdet' has no 'config'"),
    "config a list": (lambda card: card | {"config": [1]}, r"its config is \[1\], wanted a dictionary"),
    "no model": (lambda card: card | {"config": {}}, r"its entry 'resdet.config.model' is None, wanted a dictionary"),
    "no recipe": (lambda card: card | {"config": {"model": {}}}, r"'resdet.config.model' has no 'recipe'"),
    "no classes": (lambda card: {k: v for k, v in card.items() if k != "classes"}, r"'resdet' has no 'classes'"),
    "classes text": (lambda card: card | {"classes": "cat"}, r"its classes is 'cat', wanted a list"),
    "a class a number": (lambda card: card | {"classes": ["cat", 2]}, r"its classes has 2, wanted text each"),
    "fewer ids": (lambda card: card | {"category_ids": [17]}, r"\['cat', 'dog'\] with the category ids \[17\]: wanted"),
    "ids nested": (lambda card: card | {"category_ids": [[1], None]}, r"the category ids \[\[1\], None\]: wanted"),
    "twins": (lambda card: card | {"classes": ["cat", "cat"]}, r"the classes \['cat', 'cat'\] with"),
    "no backbone": (lambda card: {k: v for k, v in card.items() if k != "backbone"}, r"'resdet' has no 'backbone'"),
    "no source": (lambda card: card | {"backbone": {"name": "resnet18"}}, r"'resdet.backbone' has no 'source'"),
    "other source": (lambda card: card | {"backbone": {"source": "mm", "name": "x"}}, r"backbone.source='mm', wanted one of"),
    "format 1, damaged": (lambda card: {"format": 1, "config": {}}, r"'resdet.config.model' is None"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_foreign_entry_is_one_error(saved, damage, message):
    content = torch.load(saved, weights_only=True)
    torch.save(content | {KEY: damage(content[KEY])}, saved)
    with pytest.raises(ValueError, match=message) as error:
        load_detector(saved)
    assert str(saved) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_classifiers_entry_is_told_from_other_projects():
    entry = {"config": {"network": {}}, "classes": ["ant", "bee"]}
    assert classifier_entry({CLASSIFIER: entry}, "net.pth") == entry
    for content in ({}, [], {CLASSIFIER: {"weight": torch.ones(1)}}, {CLASSIFIER: "linear"}):
        assert classifier_entry(content, "net.pth") is None
    for damaged in ({"config": {}}, {"config": 3, "classes": []}, {"config": {}, "classes": [3]}):
        with pytest.raises(ValueError, match=r"net\.pth has no checkpoint metadata of this project: its"):
            classifier_entry({CLASSIFIER: damaged}, "net.pth")


def test_custom_module_requires_the_model(saved):
    rewrite(saved, lambda entry: entry.update(backbone={"source": "module", "name": "OneMap"}))
    with pytest.raises(ValueError, match=r"on a module of your own \(OneMap\).*pass it as model="):
        load_detector(saved)
    model = build_model(CONFIG.model, 2)
    loaded, names = load_detector(saved, model=model)
    assert loaded is model
    assert names == ("cat", "dog")
