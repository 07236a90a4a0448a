import pytest
from own_data import coco_set

from detection.config import load_config
from detection.data.annotations import DataError
from detection.training.planning import plan as module
from detection.training.planning.plan import make_plan

pytestmark = pytest.mark.usefixtures("thin_networks")


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return coco_set(tmp_path / "my set", [["cat"], ["dog"], ["cat", "dog"], []] * 5, split="train")


def test_a_folder_without_validation_is_split(folder):
    plan = make_plan(folder, measure=False)
    data = plan.config.data
    assert (data.format, data.root, data.val) == ("coco", str(folder), "0.2")
    assert (len(plan.source.train), len(plan.source.val)) == (16, 4)
    assert plan.config.solver.max_iter == 1000
    assert plan.config.model.anchors.sizes
    text = plan.text()
    assert "config=faster_rcnn_r18_own_data.yaml" in text
    assert "there is no set to validate on" in text
    assert "is not in the cache and will be downloaded" in text
    assert "resdet train --config quickstart.yaml" in text
    assert "time:" not in text


def test_the_printed_command_and_the_file_give_the_same_configuration(folder, tmp_path):
    import shlex

    plan = make_plan(folder, ["solver.max_iter=7", "data.workers=0"], measure=False)
    words = shlex.split(plan.command())
    assert words[:3] == ["resdet", "train", "--config"]
    assert load_config(words[3], words[4:]) == plan.config
    (tmp_path / "mine.yaml").write_text(plan.yaml())
    assert load_config(tmp_path / "mine.yaml") == plan.config
    assert "# data.format=coco: annotations/instances_train.json has COCO's lists" in plan.yaml()


def test_given_keys_come_first(folder):
    plan = make_plan(folder, ["data.val=null", "model.backbone=resnet34", "solver.max_iter=20"], measure=False)
    assert plan.source.val is None
    assert plan.config.model.weights == "torchvision://resnet34"
    assert plan.config.solver.max_iter == 20
    assert "solver.max_iter=20" in plan.text()
    assert [choice.reason for choice in plan.choices if choice.key == "solver.max_iter"] == ["given"]


def test_a_named_validation_set_is_used(folder):
    coco_set(folder, [["cat"], ["dog"]], split="val")
    plan = make_plan(folder, measure=False)
    assert plan.config.data.val == "val"
    assert len(plan.source.val) == 2
    assert plan.source.split is None


def test_time_is_measured_and_said(folder, monkeypatch):
    monkeypatch.setattr(module, "seconds_per_step", lambda config, classes, size: 3.0)
    text = make_plan(folder).text()
    assert "time: about 50 minutes on this machine now: 1000 steps of 3 s" in text
    assert "for a quick try: solver.max_iter=600" in text


def test_another_configuration_to_start_from(folder):
    plan = make_plan(folder, config="faster_rcnn_r50_c4_own_data.yaml", measure=False)
    assert plan.config.model.backbone == "resnet50"
    assert plan.choices[0].reason == "given"


def test_errors(tmp_path, folder):
    with pytest.raises(DataError, match="no folder"):
        make_plan(tmp_path / "none")
    with pytest.raises(ValueError, match="no annotations recognised"):
        make_plan(folder / "train")
    with pytest.raises(ValueError, match="expected key=value"):
        make_plan(folder, ["fast"])
    empty = coco_set(tmp_path / "empty", [[], []], split="train")
    with pytest.raises(ValueError, match=r"no classes|no image with objects"):
        make_plan(empty, ["data.val=null"])
