from pathlib import Path

import pytest
from PIL import Image

from detection.data import open as open_split
from detection.data.annotations import Annotations, DataError
from detection.data_tools.merge import Part, merge, parse_source, usual_name
from detection.data_tools.writers import write_dataset


def made(folder, classes, boxes, to="yolo", split="train"):
    """A data set of one image "a.png" with these boxes, one of each class."""
    images = folder.parent / f"{folder.name}_images"
    images.mkdir(parents=True)
    Image.new("RGB", (60, 50)).save(images / "a.png")
    records = Annotations.from_arrays([f"{images}/a.png"], [boxes], [range(1, len(boxes) + 1)], classes)
    write_dataset({split: records}, folder, to)
    return folder


def test_classes_join_by_name_and_files_stay_apart(tmp_path):
    first = made(tmp_path / "one", ("dog", "cat"), [[1, 2, 3, 4], [5, 6, 7, 9]])
    second = made(tmp_path / "two", ("ant", "dog"), [[1, 1, 9, 9], [2, 2, 8, 8]], "voc")
    splits, names = merge([*parse_source(f"yolo:{first}"), *parse_source(f"auto:{second}")])
    records = splits["train"]
    assert records.classes == ("dog", "cat", "ant")
    assert records.category_ids == (1, 2, 3)
    assert records.labels.tolist() == [1, 2, 3, 1]
    assert list(records.image_ids) == [1, 2]
    assert names == {"train": ["a.png", "two/a.png"]}
    for to in ("coco", "voc", "yolo"):
        write_dataset(splits, tmp_path / to, to, names=names)
        back = open_split(to, tmp_path / to, "train")
        assert back.classes == records.classes
        assert back.boxes.tolist() == records.boxes.tolist()
        assert [f.rpartition("/")[2] for f in back.files] == ["a.png", "a.png"]


def test_the_same_folder_name_twice(tmp_path):
    a, b = made(tmp_path / "x" / "s", ("c",), [[1, 2, 3, 4]]), made(tmp_path / "y" / "s", ("c",), [[1, 2, 3, 4]])
    c = made(tmp_path / "z" / "s", ("c",), [[1, 2, 3, 4]])
    _, names = merge([p for root in (a, b, c) for p in parse_source(f"yolo:{root}:train=all")])
    assert names == {"all": ["a.png", "s/a.png", "s_3/a.png"]}


def test_sources(tmp_path):
    root = made(tmp_path / "set", ("c",), [[1, 2, 3, 4]], split="val")
    assert parse_source(f"yolo:{root}:valid=train") == [Part("yolo", root, "valid", "train")]
    assert parse_source(f"yolo:{root}:images/val") == [Part("yolo", root, "images/val", "val")]
    assert parse_source(f"auto:{root}") == [Part("yolo", root, "val", "val")]
    for text, words in (
        ("yolo", "expected FORMAT:FOLDER"),
        (f"yolo:{tmp_path}/none", "no folder"),
        (f"yolu:{root}", "did you mean yolo"),
        (f"coco:{root}", "no splits found"),
    ):
        with pytest.raises(DataError, match=words):
            parse_source(text)
    with pytest.raises(DataError, match="nothing to merge"):
        merge([])


def test_usual_names():
    names = ["train2017", "VOC2007/trainval+VOC2012/trainval", "valid", "minival2014", "test", ".", "cam 1/x.json"]
    assert [usual_name(n) for n in names] == ["train", "train", "val", "val", "test", "train", "x"]
    assert Path(usual_name("../..")).name
