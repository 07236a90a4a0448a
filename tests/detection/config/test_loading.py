import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

from detection import build_model, load_config
from detection.classification.config import ClassifierConfig
from detection.config import (
    Config,
    config_folder,
    config_from_dict,
    config_help,
    config_to_dict,
    dump_config,
    find_config,
    from_dict,
)

SHIPPED = sorted(p.name for p in config_folder().glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_are_loaded_and_built(name, tmp_path):
    config = load_config(name)
    assert config.expects, "a configuration states the result that it should give"
    with torch.device("meta"):
        model = build_model(config.model, 20)
    assert model.roi_head.deltas.out_features == 80
    (tmp_path / "copy.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "copy.yaml") == config
    assert config_from_dict(config_to_dict(config)) == config


def test_shipped_configuration_names():
    assert {
        "faster_rcnn_r101.yaml",
        "faster_rcnn_r50.yaml",
        "faster_rcnn_r101_voc.yaml",
        "faster_rcnn_r101_paper.yaml",
        "faster_rcnn_r101_voc_paper.yaml",
        "faster_rcnn_r18_voc.yaml",
        "quickstart.yaml",
    } <= set(SHIPPED)


def test_settings_equal_the_papers():
    paper = load_config("faster_rcnn_r101_paper.yaml")
    assert paper.model.anchors.sizes == (64, 128, 256, 512)
    assert load_config("faster_rcnn_r101_voc_paper.yaml").model.anchors.sizes == (128, 256, 512)
    assert paper.model.roi.pool == "max"
    voc = load_config("faster_rcnn_r101_voc_paper.yaml")
    assert (paper.model.roi.background_iou_low, voc.model.roi.background_iou_low) == (0.0, 0.1)
    assert paper.solver.weight_decay == voc.solver.weight_decay == 0.0005
    assert paper.model.roi.score_threshold == voc.model.roi.score_threshold == 0.001
    assert paper.model.rpn.after_nms_test == 300
    assert paper.model.rpn.ignore_cross_boundary
    assert (paper.data.short_side, paper.data.max_side) == ((600,), 1000)
    assert (paper.solver.max_iter, paper.solver.steps, paper.solver.base_lr) == (320000, (240000,), 0.001)


def test_overrides_and_bare_names(tmp_path):
    config = load_config("quickstart", ["solver.base_lr=0.5", "data.short_side=[64, 96]", "model.weights=null"])
    assert config.solver.base_lr == 0.5
    assert config.data.short_side == (64, 96)
    (tmp_path / "mine.yaml").write_text("_base_: quickstart.yaml\nsolver: {max_iter: 7}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert config.solver.max_iter == 7
    assert config.solver.batch_size == load_config("quickstart").solver.batch_size


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("solver.base_lrr=1", "unknown key solver.base_lrr; did you mean solver.base_lr?"),
        ("max_iter=1", "unknown key max_iter; did you mean solver.max_iter?"),
        ("model.rpn.nms=0.5", "unknown key model.rpn.nms; did you mean model.rpn.nms_iou?"),
        ("solver.base_lr=-1", "solver.base_lr should be greater than 0, got -1"),
        ("solver.max_iter=many", "solver.max_iter should be a valid integer"),
        ("model.norm=batch", "model.norm should be 'bn', 'frozen_bn'"),
        ("model=null", "model is a group of keys"),
        ("solver=3", "solver is a group of keys"),
        ("solver.accumulate=3", "must be a multiple of"),
        ("data.short_side=[]", "at least one size"),
        ("solver.base_lr", "expected key=value"),
        ("solver.steps=[1,", "not valid YAML"),
    ],
)
def test_invalid_keys_and_values_raise(override, message):
    with pytest.raises(ValueError) as error:
        load_config("quickstart.yaml", [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("solver: {max_iter: 1}\nsolver: {max_iter: 2}\n", "duplicate key"),
        ("- 1\n", "expected keys and values"),
        ("_base_: self.yaml\n", "circular _base_"),
        ("solver: {max_iter: 1, max_iter: 2}\n", "duplicate key"),
    ],
)
def test_invalid_files_raise(tmp_path, text, message):
    (tmp_path / "self.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "self.yaml")


def test_unknown_name_lists_the_shipped_configurations():
    with pytest.raises(FileNotFoundError, match=r"did you mean faster_rcnn_r101.yaml\? Shipped: .*quickstart.yaml"):
        find_config("faster_rcnn_r110.yaml")


def test_help_describes_every_key():
    text = config_help()
    for line in text.splitlines():
        if not line.startswith("      "):
            key = line.split()[0]
            assert text.split(f"  {key} = ")[1].splitlines()[1].strip(), f"{key} is not documented"
    assert "solver.base_lr = 0.02" in text
    assert "learning rate for reference_batch images a step" in text


def test_configurations_are_frozen():
    with pytest.raises(AttributeError):
        Config().solver.max_iter = 3


def test_print_config_and_help_from_the_command_line():
    tool = Path(__file__).parents[3] / "tools" / "train_net.py"
    out = subprocess.run(
        [sys.executable, tool, "--config", "quickstart", "--print-config", "seed=5"], capture_output=True, text=True
    )
    assert out.returncode == 0
    assert "seed: 5" in out.stdout
    out = subprocess.run([sys.executable, tool, "--help"], capture_output=True, text=True)
    assert out.returncode == 0
    assert "solver.warmup" in out.stdout


def value(entry):
    """The value that a key has after an entry "key=value"."""
    config = load_config("quickstart.yaml", [entry])
    result = config
    for part in entry.partition("=")[0].split("."):
        result = getattr(result, part)
    return result


@pytest.mark.parametrize(
    "text", ["01", "007", "2012_02", "1e3", "0x1F", "2012-01-02", "2007", "1.50", "trainval", "'05'"]
)
def test_names_are_the_text_as_typed(text, tmp_path):
    name = text.strip("'")
    for key in ("data.train", "data.val", "data.root", "model.weights"):
        assert value(f"{key}={text}") == name
    (tmp_path / "a.yaml").write_text(f"data: {{train: {text}, val: null}}\n")
    config = load_config(tmp_path / "a.yaml")
    assert (config.data.train, config.data.val) == (name, None)
    (tmp_path / "b.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "b.yaml") == config


def test_numbers_are_plain_numbers():
    for entry, wanted in (("solver.max_iter=1e3", 1000), ("solver.max_iter=10_000", 10000), ("solver.base_lr=1", 1.0)):
        assert value(entry) == wanted
        assert type(value(entry)) is type(wanted)
    (transform,) = value("data.augment=[{GaussNoise: {p: 0.5, n: 3}}]")
    assert [type(v) for v in transform["GaussNoise"].values()] == [float, int]


def leaves(group, prefix=""):
    hints = typing.get_type_hints(group)
    for f in dataclasses.fields(group):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from leaves(hints[f.name], f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, hints[f.name]


@pytest.mark.parametrize("schema", [Config, ClassifierConfig])
def test_no_key_takes_true_for_a_number_or_a_number_for_true(schema):
    for key, kind in leaves(schema):
        takes_bool = kind in (bool, bool | None)
        for given in (True, 1, "1", "true"):
            tree: dict = {}
            *groups, leaf = key.split(".")
            group = tree
            for name in groups:
                group = group.setdefault(name, {})
            group[leaf] = given
            if takes_bool is not (given is True) and (takes_bool or given is True):
                with pytest.raises(ValueError, match=rf"{key}.* got {given!r}"):
                    from_dict(schema, tree, "here")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("solver.max_iter=true", "solver.max_iter should be a number, got True"),
        ("solver.ema=true", "solver.ema should be a number, got True"),
        ("model.freeze_at=true", "model.freeze_at should be a number, got True"),
        ("solver.max_iter='5'", "solver.max_iter should be a number, without quotes, got '5'"),
        ("solver.val_loss=yes", "solver.val_loss should be a valid boolean, got 'yes'"),
        ("data.keep_empty=1", "data.keep_empty should be a valid boolean, got 1"),
        ("solver.base_lr=.inf", "solver.base_lr should be a finite number, got inf"),
        ("data.short_side={a: 1}", "data.short_side should be a list"),
        ("solver.epochs=12", "unknown key solver.epochs: solver.max_epochs sets the length in epochs"),
        ("model.num_classes=3", "unknown key model.num_classes: the classes are those of the annotations"),
        ("model.depth=50", "unknown key model.depth: model.backbone names the network"),
        ("solver.lr=0.1", "unknown key solver.lr: solver.base_lr"),
        ("model.pretrained=true", "unknown key model.pretrained: model.weights"),
    ],
)
def test_other_types_and_other_projects_keys(entry, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config("quickstart.yaml", [entry])


def test_one_value_is_a_list_of_one():
    assert value("data.short_side=128") == (128,)
    assert value("solver.steps=500") == (500,)
    assert value("model.anchors.sizes=32") == (32,)
    assert value("model.anchors.sizes=auto") == ()
    assert value("solver.loggers=wandb") == ("wandb",)


def test_keys_of_other_projects_are_no_keys_of_ours():
    for schema in (Config, ClassifierConfig):
        ours = {key.rpartition(".")[2] for key, _ in leaves(schema)}
        assert ours & set(schema.other_names) <= {"lr"}  # of pretrain, not of the solver


def test_of_two_keys_for_one_thing_the_later_counts(tmp_path):
    base, file = tmp_path / "base.yaml", tmp_path / "file.yaml"
    base.write_text("solver: {max_iter: 500, steps: [300], warmup: 20}\n")
    file.write_text("_base_: base.yaml\nsolver: {max_epochs: 12, steps_epochs: [8, 11]}\n")
    solver = load_config(file).solver
    assert (solver.max_epochs, solver.max_iter, solver.steps_epochs, solver.warmup) == (12, 0, (8, 11), 20)
    solver = load_config(file, ["solver.max_iter=70", "solver.warmup_epochs=0.5"]).solver
    assert (solver.max_epochs, solver.max_iter, solver.steps_epochs, solver.warmup_epochs) == (None, 70, (8, 11), 0.5)
    assert load_config(base, ["solver.max_epochs=3"]).solver.max_epochs == 3
    with pytest.raises(ValueError, match=r"solver.max_iter=70 and solver.max_epochs=12 set the same: give one of them"):
        load_config(file, ["solver.max_iter=70", "solver.max_epochs=12"])
    both = tmp_path / "both.yaml"
    both.write_text("solver: {steps: [5, 0.5], steps_epochs: 8}\n")
    with pytest.raises(ValueError, match=r"solver.steps=\[5, 0.5\] and solver.steps_epochs=\[8\]"):
        load_config(both)


def test_a_configuration_in_epochs_comes_back_from_its_dump(tmp_path):
    config = load_config(
        "quickstart.yaml", ["solver.max_epochs=2", "solver.steps_epochs=[1]", "solver.warmup_epochs=0.1"]
    )
    (tmp_path / "dumped.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "dumped.yaml") == config
