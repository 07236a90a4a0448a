import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from detection.data import open as open_split
from detection.data.annotations import Annotations, DataError
from detection.data_tools.writers import WRITERS, coco_content, report_written, write_dataset

CLASSES = ("zebra", "ant & bee")  # not in alphabetical order; a character that XML escapes
BOXES = [[[1, 2, 30.25, 40], [0.1, 0.2, 60, 50]], [], [[7, 8, 9.125, 20], [5, 5, 5, 9]]]


def records(folder, names=("b.jpg", "a.png", "sub/c.jpg"), **changes):
    """Three images, the second one empty."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 50)).save(folder / name)
    made = Annotations.from_arrays([f"{folder}/{n}" for n in names], BOXES, [[1, 2], [], [2, 1]], CLASSES)
    return replace(made, folder=str(folder), **changes)


@pytest.mark.parametrize("to", WRITERS)
def test_what_is_written_is_read_again(tmp_path, to):
    made = records(tmp_path / "images")
    assert write_dataset({"train": made}, tmp_path / "out", to) == (
        ["train: image ids became the files' names"] if to == "yolo" else []
    )
    read = open_split(to, tmp_path / "out", "train")
    assert read.classes == CLASSES
    assert np.abs(read.boxes - made.boxes).max() < 1e-9
    assert (read.boxes.astype(np.float32) == made.boxes.astype(np.float32)).all()
    assert read.labels.tolist() == made.labels.tolist()
    assert read.offsets.tolist() == made.offsets.tolist()
    assert [f.rpartition("/")[2] for f in read.files] == ["b.jpg", "a.png", "c.jpg"]  # the order is kept
    assert read.sizes.tolist() == made.sizes.tolist()
    assert read.issues == ()
    assert open_split("auto", tmp_path / "out", "train").boxes.tolist() == read.boxes.tolist()


def test_yolo_files(tmp_path):
    made = records(tmp_path / "images", category_ids=(7, 3))
    write_dataset({"train": made, "val": made}, tmp_path / "out", "yolo")
    rows = (tmp_path / "out/labels/train/b.txt").read_text().splitlines()
    assert rows[0].split() == ["0", repr(15.625 / 60), "0.42", "0.4875", "0.76"]
    assert (tmp_path / "out/labels/train/a.txt").read_text() == ""
    content = YAML(typ="safe").load((tmp_path / "out/data.yaml").read_text())
    assert content == {
        "train": "train.txt",  # b before a: a folder would be read in the order of its names
        "val": "val.txt",
        "nc": 2,
        "names": {0: "zebra", 1: "ant & bee"},
        "category_ids": [7, 3],
    }
    assert (tmp_path / "out/train.txt").read_text().splitlines()[0] == "./images/train/b.jpg"
    assert open_split("yolo", tmp_path / "out", "val").category_ids == (7, 3)


def test_voc_files(tmp_path):
    write_dataset({"train": records(tmp_path / "images")}, tmp_path / "out", "voc")
    tree = ET.parse(tmp_path / "out/Annotations/b.xml")
    assert [e.text for e in tree.iter("name")] == ["zebra", "ant & bee"]
    corners = [[e.text for e in box] for box in tree.iter("bndbox")]
    assert corners == [["2", "3", "30.25", "40"], ["1.1", "1.2", "60", "50"]]
    assert (tmp_path / "out/ImageSets/Main/train.txt").read_text() == "b\na\nsub/c\n"


def test_voc_has_one_folder_for_the_images_of_all_splits(tmp_path):
    made = records(tmp_path / "images")
    lost = write_dataset({"train": made, "val": made}, tmp_path / "out", "voc")
    assert lost == ["val: names of images became val/NAME: another split has some of them"]
    assert list(open_split("voc", tmp_path / "out", "train").image_ids) == ["b", "a", "sub/c"]
    assert list(open_split("voc", tmp_path / "out", "val").image_ids) == ["val/b", "val/a", "val/sub/c"]


def test_what_a_format_cannot_hold_is_said(tmp_path):
    made = records(tmp_path / "images", category_ids=(7, 3))
    made = replace(
        made,
        crowd=np.array([True, False, False, False]),
        difficult=np.array([False, True, False, False]),
        areas=np.array([1.0, 1, 1, 0]),
    )
    assert write_dataset({"train": made}, tmp_path / "coco", "coco") == []
    back = open_split("coco", tmp_path / "coco", "train")
    order = np.argsort(made.category_ids)  # COCO's classes are read in the order of their ids
    assert back.classes == tuple(CLASSES[k] for k in order)
    for key in ("crowd", "difficult", "areas"):
        assert getattr(back, key).tolist() == getattr(made, key).tolist()
    lost = write_dataset({"train": made}, tmp_path / "voc", "voc")
    assert [" ".join(s.split()[:4]) for s in lost] == [
        "train: 1 crowd regions",
        "train: category ids became",
        "train: 1 areas became",
    ]
    assert open_split("voc", tmp_path / "voc", "train").difficult.tolist() == [True, True, False, False]
    lost = write_dataset({"train": made}, tmp_path / "yolo", "yolo")
    assert [" ".join(s.split()[:4]) for s in lost] == [
        "train: 1 crowd regions",
        "train: 1 difficult objects",
        "train: image ids became",
        "train: 1 areas became",
    ]
    assert len(open_split("yolo", tmp_path / "yolo", "train").labels) == 2


def test_boxes_of_a_pixel_in_voc(tmp_path):
    Image.new("RGB", (60, 50)).save(tmp_path / "a.jpg")
    made = Annotations.from_arrays([tmp_path / "a.jpg"], [[[5, 5, 6, 9], [5, 5, 7, 9]]], [[1, 1]], CLASSES)
    lost = write_dataset({"train": made}, tmp_path / "out", "voc")
    assert "1 boxes of at most one pixel" in lost[0]


def test_ids_in_coco(tmp_path):
    made = records(tmp_path / "images")
    names = ["x.jpg", "y.jpg", "z.jpg"]

    def ids(*values):
        content = coco_content(replace(made, image_ids=list(values)), names)
        assert {a["image_id"] for a in content["annotations"]} <= {i["id"] for i in content["images"]}
        return [i["id"] for i in content["images"]]

    assert ids(9, 4, 0) == [9, 4, 0]
    assert ids("000009", "4", "0") == [9, 4, 0]
    assert ids("a", "4", "0") == ids("4", "04", "0") == [1, 2, 3]
    assert [a["id"] for a in coco_content(made, names)["annotations"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("to", WRITERS)
def test_nothing_is_replaced_and_nothing_half_written(tmp_path, to, monkeypatch):
    made = records(tmp_path / "images")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out already exists.*--output FOLDER"):
        write_dataset({"train": made}, tmp_path / "out", to)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"no image file .*a\.png"):
        write_dataset({"train": made}, tmp_path / "new", to)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out"]
    write_dataset({"train": made}, tmp_path / "new", to, "none")
    assert not [p for p in (tmp_path / "new").rglob("*") if p.suffix in (".jpg", ".png")]


def test_what_cannot_be_written(tmp_path):
    made = records(tmp_path / "images")
    with pytest.raises(DataError, match="written as coco, voc, yolo, not 'csv'"):
        write_dataset({"train": made}, tmp_path / "out", "csv")
    with pytest.raises(DataError, match="same classes"):
        write_dataset({"train": made, "val": replace(made, classes=("a", "b"))}, tmp_path / "out", "coco")
    with pytest.raises(DataError, match="cannot be the name of a split"):
        write_dataset({"../x": made}, tmp_path / "out", "coco")
    with pytest.raises(DataError, match="cannot hold the class names"):
        write_dataset({"train": replace(made, classes=("a", " b"))}, tmp_path / "out", "voc")
    assert not (tmp_path / "out").exists()


def test_the_report_names_the_keys(tmp_path):
    text = report_written({"train": records(tmp_path)}, tmp_path / "out", "yolo", ["a sentence"])
    assert "train 3 images, 4 objects; 2 classes" in text
    assert "not kept: a sentence" in text
    assert text.endswith(f"data.format=yolo data.root={tmp_path}/out data.train=train data.val=null")
    assert json.dumps(text)
