import dataclasses
import logging

import pytest
import torch
from tiny import CLASSES, SIZE, detector, pixels, records

from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import Classes
from detection.config import Config, DataConfig, ModelConfig, PretrainConfig, SolverConfig
from detection.data.annotations import Annotations, DataError
from detection.data.opening import Source
from detection.modeling.build import build_model
from detection.training.run import Components, evaluate_only, train_config

pytestmark = pytest.mark.usefixtures("thin_networks")
DATA = DataConfig(format="shapes", train="2", val="1", short_side=(48,), max_side=64, workers=0)
CONFIG = Config(
    model=ModelConfig(backbone="resnet18", norm="bn", freeze_at=0),
    data=DATA,
    solver=SolverConfig(batch_size=2, max_iter=2),
)
ARRAYS = Source(records(), None, pixels)


@pytest.fixture(autouse=True)
def _loggers():
    """A run that fails leaves its log open."""
    before = {name: list(logging.getLogger(name).handlers) for name in ("detection", "backbone")}
    yield
    for name, handlers in before.items():
        logging.getLogger(name).handlers = handlers


def refused(tmp_path, config, words, error=ValueError, **given):
    """A run that is refused, and leaves no folder."""
    with pytest.raises(error, match=words):
        train_config(config, tmp_path / "run", components=Components(**given))
    assert not (tmp_path / "run").exists()


def test_a_model_of_other_classes_is_refused(tmp_path):
    three = Source(Annotations.from_arrays(["0"], [[[1, 1, 9, 9]]], [[1]], ("a", "b", "c"), sizes=[SIZE]), None, pixels)
    refused(tmp_path, CONFIG, "2 classes and the dataset 3", source=three, model=detector())


def test_images_without_objects_are_refused(tmp_path):
    empty = Source(Annotations.from_arrays(["0"], [[]], [[]], CLASSES, sizes=[SIZE]), None, pixels)
    refused(tmp_path, CONFIG, "no image with objects", source=empty)


def test_pretraining_a_model_of_ones_own_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, pretrain=PretrainConfig(iterations=5))
    refused(tmp_path, config, r"pretrain\.iterations", source=ARRAYS, model=detector())


def test_pretraining_over_weights_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, pretrain=PretrainConfig(iterations=5))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights="some.pth"))
    refused(tmp_path, config, r"some\.pth", source=ARRAYS)


def test_weights_that_do_not_exist_are_refused(tmp_path):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, weights=str(tmp_path / "none.pth")))
    refused(tmp_path, config, r"none\.pth", FileNotFoundError, source=ARRAYS)


def test_data_that_are_missing_are_refused(tmp_path):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, format="coco", root=str(tmp_path / "none")))
    refused(tmp_path, config, "no data found", DataError)


def test_cuda_graphs_want_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = dataclasses.replace(CONFIG, solver=dataclasses.replace(CONFIG.solver, cuda_graphs=True))
    refused(tmp_path, config, "GPU", source=ARRAYS)
    with pytest.raises(ValueError, match="GPU"):
        evaluate_only(config, "none.pth", tmp_path / "run")


def test_nothing_to_evaluate_on_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, val=None))
    with pytest.raises(ValueError, match=r"data\.val is null"):
        evaluate_only(config, "none.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_detector_of_other_classes_is_not_evaluated(tmp_path):
    """Shapes have six classes."""
    weights = tmp_path / "best.pth"
    save_detector(weights, build_model(CONFIG.model, 2), CONFIG, Classes(CLASSES, (1, 2)))
    with pytest.raises(ValueError, match=r"objects of cross, .*which are not among the classes cat, dog"):
        evaluate_only(CONFIG, weights, tmp_path / "run")
    assert not (tmp_path / "run").exists()
