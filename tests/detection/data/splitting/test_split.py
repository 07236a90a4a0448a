import json

import numpy as np
import pytest
from own_data import coco_set, keys

from detection.config import load_config
from detection.data.annotations import DataError
from detection.data.coco import read_coco
from detection.data.splitting import split as module
from detection.data.splitting.split import (
    Split,
    SplitRequest,
    describe_split,
    make_split,
    parse_split,
    read_split_file,
)

OBJECTS = [["cat"], ["dog"], ["cat", "dog"], []] * 5


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("text", "fractions"),
    [
        ("0.2", (0.8, 0.2, 0.0)),
        (".25", (0.75, 0.25, 0.0)),
        ("split:0.2", (0.8, 0.2, 0.0)),
        ("split:0.1:0.3", (0.6, 0.1, 0.3)),
    ],
)
def test_fractions(text, fractions):
    assert parse_split(text).fractions == pytest.approx(fractions)


def test_files_and_parts():
    assert parse_split("split:runs/a/split.json") == SplitRequest(None, "val", module.Path("runs/a/split.json"))
    assert parse_split("split:C:/a/split.json:test") == SplitRequest(None, "test", module.Path("C:/a/split.json"))
    assert parse_split("split:test") == SplitRequest(None, "test")


@pytest.mark.parametrize("text", [None, "val", "val2017", "2007", "01", "1.5", "VOC2007/test", "a.json"])
def test_names_of_sets_are_no_split(text):
    assert parse_split(text) is None


@pytest.mark.parametrize(
    "text", ["split:", "split:0.5:0.5", "split:0.6:0.6", "split:2", "split:0.1:0.1:0.1", "split:tset", "0.0"]
)
def test_what_is_no_split_says_what_is(text):
    with pytest.raises(DataError, match=r"is no split: write 0\.2"):
        parse_split(text)


def test_a_number_in_yaml_and_in_python_is_a_fraction(tmp_path):
    (tmp_path / "a.yaml").write_text("_base_: faster_rcnn_r18_own_data.yaml\ndata: {val: 0.2}\n")
    assert load_config(tmp_path / "a.yaml").data.val == "0.2"


def test_parts_are_by_class_and_written_to_be_read(tmp_path):
    root = coco_set(tmp_path / "set", OBJECTS)
    records = read_coco(root, "all")
    split = make_split(records, (0.6, 0.2, 0.2), 0, root)
    assert [len(split.images[part]) for part in ("train", "val", "test")] == [12, 4, 4]
    assert split.about["objects"]["cat"] == {"train": 6, "val": 2, "test": 2}
    assert split.images["val"][0].startswith("all/")
    split.write(tmp_path / "split.json")
    again = read_split_file(tmp_path / "split.json")
    assert again == split
    assert "images" in json.loads((tmp_path / "split.json").read_text())
    parts = again.select(records, root)
    files = [file for part in parts.values() for file in part.files]
    assert sorted(files) == sorted(records.files)


def test_images_that_look_the_same_are_on_one_side(tmp_path):
    alike = {i + 10: i for i in range(10)}  # each image twice
    root = coco_set(tmp_path / "set", OBJECTS, alike=alike)
    records = read_coco(root, "all")
    for seed in range(3):
        split = make_split(records, (0.7, 0.3, 0.0), seed, root)
        assert split.about["near_same"]["groups"] == 10
        side = {name: part for part, names in split.images.items() for name in names}
        for i in range(10):
            assert side[f"all/{i:03d}.jpg"] == side[f"all/{i + 10:03d}.jpg"]
    assert "20 images look like another one" in describe_split(split)


def test_a_film_of_frames_is_split_all_the_same(tmp_path, caplog):
    root = coco_set(tmp_path / "set", [["cat"]] * 12, alike=dict.fromkeys(range(1, 12), 0))
    split = make_split(read_coco(root, "all"), (0.75, 0.25, 0.0), 0, root)
    assert [len(split.images[part]) for part in ("train", "val")] == [9, 3]
    assert "as frames of a film do" in caplog.text


def test_many_images_are_not_compared(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_HASHED", 5)
    root = coco_set(tmp_path / "set", OBJECTS, alike={1: 0})
    split = make_split(read_coco(root, "all"), (0.8, 0.2, 0.0), 0, root)
    assert split.about["near_same"]["note"] == "more than 5 images: not compared"
    assert "may come to lie on both sides" in caplog.text


def test_too_few_images(tmp_path):
    root = coco_set(tmp_path / "set", [["cat"]])
    with pytest.raises(DataError, match="1 images cannot be split into 2 parts"):
        make_split(read_coco(root, "all"), (0.8, 0.2, 0.0), 0, root)


def test_images_that_came_or_went_are_named(tmp_path, caplog):
    root = coco_set(tmp_path / "set", OBJECTS[:4])
    records = read_coco(root, "all")
    split = Split({"train": ["all/000.jpg", "all/gone.jpg"], "val": ["all/001.jpg"], "test": []})
    parts = split.select(records, root)
    assert [len(parts[part]) for part in ("train", "val", "test")] == [1, 1, 0]
    assert "2 images are not in the split and are left out: all/002.jpg, all/003.jpg" in caplog.text
    assert "1 images of the split are not in" in caplog.text
    with pytest.raises(DataError, match="none of the split's 1 val images"):
        Split({"train": ["all/000.jpg"], "val": ["x.jpg"], "test": []}).select(records, root)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 1, "images": {"fold": []}}', '{"version": 9, "images": {}}']
)
def test_what_is_no_split_file_is_named(tmp_path, content):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match=r"split\.json is not the split\.json of a run"):
        read_split_file(tmp_path / "split.json")
    with pytest.raises(DataError, match=r"no split in .*give the split\.json of a run"):
        read_split_file(tmp_path / "none.json")


def test_classes_that_a_part_lacks_are_named(tmp_path):
    root = coco_set(tmp_path / "set", [["cat"]] * 9 + [["emu"]])
    split = make_split(read_coco(root, "all"), (0.8, 0.2, 0.0), 0, root)
    lacking = [part for part in ("train", "val") if not split.about["objects"]["emu"][part]]
    assert f"{lacking[0]} has no object of 1 classes, of which there are too few: emu" in describe_split(split)


def test_units_are_numbered_from_zero():
    components = module._components(6, np.array([[0, 3], [3, 5], [1, 2]]))
    assert components.tolist() == [0, 1, 1, 0, 2, 0]


def test_keys_of_the_command_line(tmp_path):
    config = load_config("faster_rcnn_r18_own_data.yaml", keys(tmp_path, val="0.2"))
    assert parse_split(config.data.val).part == "val"
