import pytest

from detection.classification.config import ClassifierConfig, ImageDataConfig
from detection.config import SolverConfig, config_folder, config_to_dict, from_dict, load


def config(**groups):
    return from_dict(ClassifierConfig, groups, "here")


def test_nothing_is_the_default():
    assert config() == ClassifierConfig()
    assert (config().network.name, config().data.crop) == ("resnet50", 224)


def test_a_configuration_comes_back_from_its_dictionary():
    changed = config(network={"name": "cifar_resnet20", "width": 8}, data={"short_side": [32, 40]}, mixup=0.2)
    assert changed.data.short_side == (32, 40)
    assert from_dict(ClassifierConfig, config_to_dict(changed), "there") == changed


@pytest.mark.parametrize("path", sorted((config_folder() / "classifiers").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    loaded = load(ClassifierConfig, path.stem, folder="classifiers")
    assert loaded.solver.max_iter > 0
    assert loaded.data.crop > 0


@pytest.mark.parametrize(
    ("groups", "key"),
    [
        ({"label_smoothing": 1.5}, "label_smoothing"),
        ({"mixup": -1}, "mixup"),
        ({"network": {"norm": "frozen_bn"}}, "network.norm"),
        ({"network": {"width": 0}}, "network.width"),
        ({"network": {"shortcut": "D"}}, "network.shortcut"),
        ({"data": {"format": "coco"}}, "data.format"),
        ({"data": {"short_side": [256]}}, "data.short_side"),
        ({"data": {"lighting": -0.1}}, "data.lighting"),
    ],
)
def test_values_out_of_range_are_refused_by_key(groups, key):
    with pytest.raises(ValueError, match=rf"here: .*{key}"):
        config(**groups)


def test_the_detectors_keys_are_unknown_here():
    with pytest.raises(ValueError, match="unknown key model"):
        config(model={"norm": "bn"})


def test_a_plateau_wants_evaluations():
    plateau = SolverConfig(schedule="plateau", eval_every=10)
    assert ClassifierConfig(solver=plateau).solver == plateau
    with pytest.raises(ValueError, match=r"data\.val"):
        ClassifierConfig(solver=plateau, data=ImageDataConfig(val=None))


def test_a_number_of_images_is_a_name():
    assert config(data={"format": "shapes", "train": 2007, "val": None}).data.train == "2007"
