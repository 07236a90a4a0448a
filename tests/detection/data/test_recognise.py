import json

import pytest
from PIL import Image

from detection.config import DataConfig
from detection.data.annotations import DataError
from detection.data.recognise import find_data, recognise

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 10}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
    "categories": [{"id": 1, "name": "cat"}],
}
XML = "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"


def put(root, **files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (20, 10)).save(path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


LAYOUTS = {
    "coco's own": ("coco", ["train"], {"annotations/instances_train.json": COCO}),
    "roboflow coco": (
        "coco",
        ["train", "valid"],
        {"train/_annotations.coco.json": COCO, "valid/_annotations.coco.json": COCO},
    ),
    "cvat coco": ("coco", ["default"], {"annotations/instances_default.json": COCO, "images/a.jpg": None}),
    "one json": ("coco", ["result.json"], {"result.json": COCO, "images/a.jpg": None}),
    "voc": (
        "voc",
        ["train", "val"],
        {"ImageSets/Main/train.txt": "a\n", "ImageSets/Main/val.txt": "a\n", "ImageSets/Main/cat_train.txt": "a 1"},
    ),
    "roboflow voc": (
        "voc",
        ["train", "valid"],
        {"train/a.jpg": None, "train/a.xml": XML, "valid/a.jpg": None, "valid/a.xml": XML},
    ),
    "xml apart": ("voc", ["."], {"Annotations/a.xml": XML, "pictures/a.jpg": None}),
    "xml apart in splits": ("voc", ["train"], {"train/annotations/a.xml": XML, "train/images/a.jpg": None}),
    "yolo": (
        "yolo",
        ["train", "val"],
        {
            "data.yaml": "train: images/train\nval: images/val\nnames: [a]",
            "images/train/a.jpg": None,
            "images/val/a.jpg": None,
        },
    ),
    "yolo folders": ("yolo", ["."], {"images/a.jpg": None, "labels/a.txt": "0 .5 .5 .1 .1\n"}),
    "darknet": ("yolo", ["."], {"a.jpg": None, "a.txt": "0 .5 .5 .1 .1\n"}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    format, splits, files = LAYOUTS[name]
    found = recognise(put(tmp_path, **files))
    assert (found.format, found.splits) == (format, splits)
    assert any(part in found.reason for file in files for part in file.split("/"))


def test_two_candidates_are_an_error_that_names_both(tmp_path):
    put(tmp_path, **{"annotations/instances_train.json": COCO, "images/a.jpg": None, "labels/a.txt": "0 .5 .5 .1 .1"})
    with pytest.raises(
        DataError, match=r"(?s)more than one format.*data\.format=coco: annotations.*data\.format=yolo: labels/a"
    ):
        recognise(tmp_path)


def test_nothing_is_an_error_that_says_what_lies_there(tmp_path):
    put(tmp_path, **{"a.jpg": None, "notes.txt": "hello", "detections.json": [{"bbox": [1, 2, 3, 4]}]})
    with pytest.raises(
        DataError, match=r"no annotations recognised.*its entries are a\.jpg, detections\.json.*data\.format=NAME"
    ):
        recognise(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        recognise(tmp_path / "none")


def config(root, **keys):
    return DataConfig(format="auto", root=str(root), **keys)


def test_splits_are_found_and_said(tmp_path, caplog):
    put(tmp_path, **LAYOUTS["roboflow coco"][2])
    caplog.set_level("INFO")
    found = find_data(config(tmp_path))  # data.train and data.val at their defaults
    assert (found.format, found.train, found.val) == ("coco", "train", "valid")
    assert (
        "data.format=coco, since train/_annotations.coco.json has COCO's lists; data.train=train data.val=valid"
        in caplog.text
    )
    assert find_data(found) is found
    assert find_data(config(tmp_path, train="auto", val="auto")) == found
    assert find_data(config(tmp_path, train="valid", val=None)).train == "valid"  # what is given stays


def test_no_validation_split_is_null_and_no_training_split_an_error(tmp_path):
    put(tmp_path, **LAYOUTS["one json"][2])
    found = find_data(config(tmp_path))
    assert (found.train, found.val) == ("result.json", None)
    put(tmp_path, **{"other.json": COCO})
    with pytest.raises(DataError, match=r"which split is for training.*other\.json, result\.json.*data\.train=NAME"):
        find_data(config(tmp_path))


def test_other_formats_are_left_alone(tmp_path):
    given = DataConfig(format="voc", root=str(tmp_path / "none"), train="auto")
    assert find_data(given) is given
