"""Settings derived from the training set."""

import dataclasses

import pytest
import torch

from detection import build_model, load_config
from detection.config import DataConfig, SolverConfig
from detection.data.loader import TrainSet
from detection.data.opening import open_source
from detection.training import auto
from detection.training.auto import resolve, start_classes_at_frequencies
from detection.training.schedule import make_schedule

KEYS = ["data.train=8", "data.val=null", "data.keep_empty=false", "pretrain.iterations=0"]


def opened(*keys):
    config = load_config("quickstart.yaml", [*KEYS, *keys])
    source = open_source(config.data)
    return config, TrainSet(source.train, source.read, config.data, 0)


def test_max_iter_from_the_number_of_images(monkeypatch, caplog):
    config, dataset = opened("solver.max_iter=auto", "solver.batch_size=2")
    n = len(dataset.usable())
    with caplog.at_level("INFO"):
        assert resolve(config, dataset).solver.max_iter == auto.MIN_STEPS
    assert f"of {n} images" in caplog.text
    monkeypatch.setattr(auto, "MIN_STEPS", 5)
    assert resolve(config, dataset).solver.max_iter == -(-auto.EPOCHS * n // 2)


def test_epochs_are_of_the_images_that_are_trained_on():
    config, dataset = opened("solver.max_epochs=3", "solver.batch_size=2")
    assert resolve(config, dataset).solver.max_iter == -(-3 * len(dataset.usable()) // 2)


def test_explicit_values_are_unchanged():
    config, dataset = opened("solver.max_iter=7", "model.anchors.sizes=[20,40]")
    assert resolve(config, dataset) == config


def test_anchor_sizes_with_better_coverage_are_selected():
    """Boxes of 20 px match no default anchor at IoU 0.5, boxes of 64 px do."""
    config, dataset = opened("model.anchors.sizes=auto", "model.anchors.aspect_ratios=[0.5,1,2]")
    assert config.model.anchors.sizes == ()
    side, image_size = 20.0, dataset.records.sizes[0][0]
    scale = config.data.short_side[-1] / image_size
    boxes = dataset.objects.boxes
    boxes[:, 2:] = boxes[:, :2] + side / scale
    small = resolve(config, dataset).model.anchors.sizes
    assert len(small) == 5
    assert all(18 <= size <= 24 for size in small)
    boxes[:, :2] = 0.0
    boxes[:, 2:] = 64 / scale
    assert resolve(config, dataset).model.anchors.sizes == (32, 64, 128, 256, 512)


def test_default_anchor_sizes_without_data():
    config = load_config("quickstart.yaml", ["model.anchors.sizes=auto"])
    usual = build_model(load_config("quickstart.yaml", ["model.anchors.sizes=[32,64,128,256,512]"]).model, 2)
    assert torch.equal(build_model(config.model, 2).rpn.anchors[0].cell, usual.rpn.anchors[0].cell)


def test_unresolved_max_iter_raises():
    with pytest.raises(ValueError, match=r"solver\.max_iter=auto"):
        make_schedule(SolverConfig(max_iter=0))


def test_class_biases_start_at_the_frequencies():
    config, dataset = opened()
    model = build_model(config.model, 6)
    records = dataset.records
    dataset.records = dataclasses.replace(records, labels=torch.ones(len(records.labels), dtype=torch.int64).numpy())
    kept = int(dataset.objects.keep.sum())
    start_classes_at_frequencies(model, dataset, foreground_fraction=0.25)
    prior = model.roi_head.classes.bias.softmax(0)
    total = kept + 6  # plus the pseudo-count of each class
    expected = torch.tensor([0.75, 0.25 * (kept + 1) / total, *[0.25 / total] * 5])
    torch.testing.assert_close(prior, expected)


def test_class_weights_become_a_list(caplog):
    config, dataset = opened("model.roi.class_weights={disc: 2, background: 0.5}")
    assert dataset.records.classes == ("crescent", "cross", "disc", "square", "star", "triangle")
    with caplog.at_level("INFO"):
        resolved = resolve(config, dataset)
    assert resolved.model.roi.class_weights == (0.5, 1, 1, 2, 1, 1, 1)
    assert "background 0.5, crescent 1, cross 1, disc 2" in caplog.text
    assert resolve(resolved, dataset) == resolved
    assert build_model(resolved.model, 6).roi_head.class_weights.tolist() == [0.5, 1, 1, 2, 1, 1, 1]
    with pytest.raises(ValueError, match="no class 'discs': did you mean 'disc'"):
        resolve(opened("model.roi.class_weights={discs: 2}")[0], dataset)
    with pytest.raises(ValueError, match="needs the data's classes"):
        build_model(config.model, 6)
    with pytest.raises(ValueError, match="wants 7 numbers, the background's first, got 6"):
        build_model(opened("model.roi.class_weights=[1,1,1,1,1,1]")[0].model, 6)


def test_balanced_weights_are_scikit_learns_formula():
    """Four objects of class 1, two of class 2, none of the others: M / (K n), and 1 of the background."""
    _, dataset = opened("model.roi.class_weights=balanced")
    labels = torch.tensor([1, 1, 2, 1, 2, 1]).numpy()
    dataset.records = dataclasses.replace(dataset.records, labels=labels)
    dataset.objects = dataclasses.replace(dataset.objects, keep=torch.ones(6, dtype=torch.bool).numpy())
    weights = auto._balanced_weights(dataset)
    assert weights == pytest.approx((1, 6 / (6 * 4), 6 / (6 * 2), 1, 1, 1, 1))
    assert sum(weights[label] for label in labels[:6].tolist()) == pytest.approx(
        2
    )  # M times the two of K classes that are seen


def test_own_data_configurations_are_resolved_before_the_model_is_built(tmp_path):
    config = load_config("faster_rcnn_r18_voc.yaml")
    explicit = load_config("faster_rcnn_r18_own_data.yaml")
    assert dataclasses.replace(config, expects="") == dataclasses.replace(explicit, expects="")
    assert (config.solver.max_iter, config.model.anchors.sizes) == (0, ())
    assert config.solver.not_finite == "recover"
    assert isinstance(config.data, DataConfig)
