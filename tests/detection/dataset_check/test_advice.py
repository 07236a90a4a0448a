"""Each command that the check gives is run, and mends what it is given for."""

import json
import shlex

import pytest
from own_data import CLASSES, coco_set, keys

from detection.cli import run
from detection.config import load_config
from detection.dataset_check.advice import alike
from detection.dataset_check.report import check


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def report(root, val="null", quick=True):
    return check(load_config("faster_rcnn_r18_own_data.yaml", keys(root, "train", val)), quick=quick)


def kinds(report):
    return {issue["kind"] for issue in report["faults"]}


def run_command(line):
    """Run a command line as a shell would split it; return the folder that it wrote."""
    program, command, *arguments = shlex.split(line)
    assert program == "resdet"
    assert run(command, arguments) == 0
    return arguments[arguments.index("--output") + 1]


def edit(root, change, split="train"):
    path = root / "annotations" / f"instances_{split}.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture
def root(tmp_path):
    return coco_set(tmp_path / "my set", [["cat", "dog"], ["emu"]] * 6, split="train")


def test_relative_boxes(root):
    def relative(data):
        for annotation in data["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x / 64, y / 48, w / 64, h / 48]

    before = report(root)
    edit(root, relative)
    found = report(root)
    assert "boxes look relative" in kinds(found)
    mended = run_command(found["advice"]["boxes look relative"])
    after = report(mended)
    assert "boxes look relative" not in kinds(after)
    assert after["sets"]["train"]["sizes"] == before["sets"]["train"]["sizes"]


def test_corners(root):
    def corners(data):
        for annotation in data["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x + 20, y + 10, x + 20 + w, y + 10 + h]

    edit(root, corners)
    found = report(root)
    assert "boxes look like x1, y1, x2, y2" in kinds(found)
    after = report(run_command(found["advice"]["boxes look like x1, y1, x2, y2"]))
    assert not {"boxes look like x1, y1, x2, y2", "box across the edge"} & kinds(after)
    assert after["sets"]["train"]["objects"] == 18


def test_class_names_alike(root):
    edit(root, lambda data: data["categories"].append({"id": 7, "name": "Emu "}))
    edit(root, lambda data: data["annotations"][0].update(category_id=7))
    found = report(root)
    line = found["advice"]["class names alike"]
    assert "--rename 'Emu =emu'" in line
    after = report(run_command(line))
    assert "class names alike" not in kinds(after)
    assert after["sets"]["train"]["classes"] == {"cat": 5, "dog": 6, "emu": 7}


def test_alike_joins_the_rarer_class():
    class Set:
        classes = ("Dog", "dog", "cat")
        labels = __import__("numpy").array([2, 2, 1, 3])

    assert alike([Set]) == [("Dog", "dog")]


@pytest.mark.parametrize("quality", [90, 60])
def test_images_in_both_sets(root, quality):
    """The same file, and one that was saved again."""
    from own_data import write_image

    coco_set(root, [["cat"], ["dog"], ["emu"]], split="val")
    write_image(root / "val" / "000.jpg", sum(map(ord, "train")) * 1000, quality)
    found = report(root, "val", quick=False)
    kind = "image in train and val" if quality == 90 else "image like another in train and val"
    assert kind in kinds(found)
    folder = run_command(found["advice"][kind])
    after = report(folder, "val", quick=False)
    assert not {"image in train and val", "image like another in train and val"} & kinds(after)
    assert sum(of["pictures"] for of in after["sets"].values()) == 15


def test_objects_that_no_anchor_reaches(root):
    config = load_config("faster_rcnn_r18_own_data.yaml", [*keys(root, "train", "null"), "model.anchors.sizes=[900]"])
    found = check(config, quick=True)
    line = found["advice"]["object that no anchor reaches"]
    words = shlex.split(line)
    assert words[:3] == ["resdet", "train", str(root)]
    again = load_config("faster_rcnn_r18_own_data.yaml", [f"data.root={root}", *words[3:]])
    assert "object that no anchor reaches" not in kinds(check(again, quick=True))


def test_few_objects(tmp_path):
    root = coco_set(tmp_path / "my set", [["cat"], ["dog", "emu"]] * 3 + [["cat", "emu"]] * 8, split="train")
    found = report(root)
    few = [issue["found"] for issue in found["faults"] if issue["kind"] == "class with few objects"]
    assert few == ["dog: 3"]
    after = report(run_command(found["advice"]["class with few objects"]))
    assert after["sets"]["train"]["classes"] == {"cat": 11, "emu": 11}


def test_few_objects_of_all_classes_are_no_reason_to_leave_them_out(root):
    found = report(root)
    assert "class with few objects" in kinds(found)
    assert "class with few objects" not in found["advice"]
    assert len(CLASSES) == 3


def test_nothing_found_gives_no_advice(tmp_path):
    root = coco_set(tmp_path / "set", [["cat"]] * 12, split="train")
    assert report(root)["advice"] == {}
