import numpy as np
import pytest

from detection.config import load_config
from detection.training.planning.choices import SMALL_CONFIG, choose
from detection.training.planning.facts import DataFacts, Machine

CPU = Machine("cpu", "a CPU with 4 cores", 0.0, 4)


def gpu(memory):
    return Machine("cuda", f"a GPU with {memory} GiB", memory, 16)


def facts(images=300, short_side=480, relative=0.3, empty=0, objects=2000):
    sides = np.full(objects, relative)
    return DataFacts(images, empty, objects, 3, short_side, short_side * 4 // 3, sides, ())


def chosen(*arguments):
    return {choice.key: choice.value for choice in choose(*arguments)}


def test_every_choice_loads_and_has_a_reason():
    for machine in (CPU, gpu(6), gpu(8), gpu(12), gpu(16), gpu(24), Machine("mps", "Apple's GPU", 0.0, 8)):
        for data in (
            facts(),
            facts(images=9000),
            facts(relative=0.01),
            facts(short_side=100),
            facts(relative=0.9, empty=3),
        ):
            choices = choose(data, machine)
            assert choices[0].key == "config"
            assert all(choice.reason for choice in choices)
            load_config(choices[0].value, [f"{choice.key}={choice.value}" for choice in choices[1:]])


@pytest.mark.parametrize(
    ("machine", "images", "config", "batch"),
    [
        (CPU, 300, SMALL_CONFIG, None),
        (gpu(6), 300, SMALL_CONFIG, None),
        (gpu(8), 300, "faster_rcnn_r50_fpn_own_data.yaml", "2"),
        (gpu(12), 300, "faster_rcnn_r50_fpn_own_data.yaml", "4"),
        (gpu(16), 9000, "faster_rcnn_r50_fpn_own_data.yaml", None),
        (gpu(24), 300, "faster_rcnn_r50_fpn_own_data.yaml", None),
        (gpu(24), 9000, "faster_rcnn_r101_fpn_own_data.yaml", None),
    ],
)
def test_network_by_memory_and_images(machine, images, config, batch):
    settings = chosen(facts(images=images, relative=0.1), machine)
    assert settings["config"] == config
    assert settings.get("solver.batch_size") == batch


def test_architecture_by_object_sizes():
    assert chosen(facts(relative=0.5), gpu(16))["config"] == "faster_rcnn_r50_c4_own_data.yaml"
    assert chosen(facts(relative=0.1), gpu(16))["config"] == "faster_rcnn_r50_fpn_own_data.yaml"
    assert chosen(facts(relative=0.1), CPU)["model.architecture"] == "c4"
    assert chosen(facts(relative=0.015), CPU)["model.architecture"] == "fpn"


def test_small_images_are_enlarged_twice_at_most():
    settings = chosen(facts(short_side=128), CPU)
    assert (settings["data.short_side"], settings["data.max_side"]) == ("[256]", "416")
    assert "data.short_side" not in chosen(facts(short_side=480), CPU)
    several = chosen(facts(short_side=128), gpu(16))["data.short_side"]
    assert several.endswith(",256]")
    assert several.count(",") == 5


def test_large_images_of_small_objects_are_trained_larger():
    assert chosen(facts(short_side=1200, relative=0.03), CPU)["data.short_side"] == "[800]"
    assert "data.short_side" not in chosen(facts(short_side=1200, relative=0.2), CPU)


def test_no_objects_at_all_gives_a_choice():
    assert chosen(facts(objects=0), CPU)["config"] == SMALL_CONFIG


def test_empty_images_are_said():
    assert any("5 images have no objects" in choice.reason for choice in choose(facts(empty=5), CPU))
