import dataclasses

import pytest

from detection.config import Config, SolverConfig, config_from_dict, config_to_dict
from detection.config.schema import DataConfig, RPNConfig, default
from detection.modeling.rpn import RPN


def config(**groups):
    return config_from_dict(groups)


def test_nothing_is_the_default_experiment():
    assert config() == Config()
    assert (config().model.backbone, config().model.architecture) == ("resnet101", "c4")
    assert config().solver.base_lr / config().solver.reference_batch == pytest.approx(0.00125)


def test_a_configuration_comes_back_from_its_dictionary():
    changed = config(model={"norm": "gn", "anchors": {"sizes": [16, 32]}}, data={"short_side": [600]}, seed=5)
    assert changed != Config()
    assert config_from_dict(config_to_dict(changed)) == changed


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("model", "backbone", "resnet17"),
        ("model", "backbone", "timm://"),
        ("model", "backbone", "plain18"),
        ("model", "recipe", "caffe"),
        ("model", "freeze_at", 6),
        ("model", "architecture", "c5"),
        ("data", "flip", 1.5),
        ("data", "max_side", 0),
        ("data", "workers", -1),
        ("solver", "base_lr", 0),
        ("solver", "momentum", -0.1),
        ("solver", "max_iter", -1),
        ("solver", "not_finite", "ignore"),
        ("solver", "loggers", ["comet"]),
        ("pretrain", "foreground_fraction", 2),
    ],
)
def test_values_out_of_range_are_refused_by_key(group, key, value):
    with pytest.raises(ValueError, match=rf"{group}\.{key}"):
        config(**{group: {key: value}})


@pytest.mark.parametrize("name", ["resnet18", "resnext101_32x8d", "timm://resnet10t"])
def test_backbones_by_name(name):
    assert config(model={"backbone": name}).model.backbone == name


def test_auto_is_kept_as_nothing():
    auto = config(solver={"max_iter": "auto"}, model={"anchors": {"sizes": "auto"}})
    assert auto.solver.max_iter == 0
    assert auto.model.anchors.sizes == ()
    with pytest.raises(ValueError, match="max_iter"):
        config(solver={"max_iter": "automatic"})


def test_a_split_that_yaml_reads_as_a_number_is_a_name():
    assert config(data={"train": 2007, "val": "2012"}).data.train == "2007"
    assert config(data={"val": None}).data.val is None


def test_a_batch_is_divided_among_its_micro_batches():
    assert SolverConfig(batch_size=12, accumulate=3).accumulate == 3
    with pytest.raises(ValueError, match="multiple"):
        SolverConfig(batch_size=12, accumulate=5)


def test_a_plateau_wants_evaluations():
    with pytest.raises(ValueError, match="eval_every"):
        config(solver={"schedule": "plateau"})
    with pytest.raises(ValueError, match=r"data\.val"):
        config(solver={"schedule": "plateau", "eval_every": 100}, data={"val": None})
    assert config(solver={"schedule": "plateau", "eval_every": 100}).solver.schedule == "plateau"


def test_images_want_a_size():
    with pytest.raises(ValueError, match="short_side"):
        Config(data=DataConfig(short_side=()))


@pytest.mark.parametrize("wrong", ["even", [1, -1], {"cat": "2"}, [], {}, 3, [True]])
def test_class_weights_are_named_listed_or_balanced(wrong):
    for right in (None, "balanced", {"cat": 2.0}, (1.0, 0.5)):
        config_ = config(model={"roi": {"class_weights": right}})
        assert config_.model.roi.class_weights == right
        assert config_from_dict(config_to_dict(config_)) == config_
    with pytest.raises(ValueError, match=r"model.roi.class_weights should be \{name: factor\}, a list"):
        config(model={"roi": {"class_weights": wrong}})


def test_a_default_is_its_constructors():
    assert default(RPN, "nms_iou") == RPNConfig().nms_iou == 0.7
    with pytest.raises(KeyError):
        default(RPN, "nms")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3
