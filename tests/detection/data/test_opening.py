import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from detection.config import DataConfig
from detection.data import formats
from detection.data.annotations import Annotations, DataError, train_objects
from detection.data.formats import register_format
from detection.data.image import UnreadableImage
from detection.data.opening import Source, describe, open_source


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


SHAPES = DataConfig(format="shapes", train="5", val="3")


def annotations(*classes, name="arrays"):
    return Annotations.from_arrays(["a"], [[[1, 1, 5, 5]]], [[1]], classes, sizes=[(40, 60)], name=name)


def coco(root, split, *classes):
    """A COCO split of one image with an object of each class."""
    (root / split).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(root / split / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": [i, 1, 9, 9]} for i, _ in enumerate(classes, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
    (root / f"{split}.json").write_text(json.dumps(content))


def voc(root, split, *classes):
    """A VOC image set of one image with an object of each class."""
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{split}1\n")
    Image.new("RGB", (60, 40)).save(root / "JPEGImages" / f"{split}1.jpg")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in classes)
    (root / "Annotations" / f"{split}1.xml").write_text(f"<annotation>{objects}</annotation>")


def test_shapes_are_as_many_as_asked_for_and_differ_between_sets():
    source = open_source(SHAPES)
    assert (len(source.train), len(source.val)) == (5, 3)
    assert source.train.classes == source.val.classes
    first, other = (records.boxes[records.objects(0)] for records in (source.train, source.val))
    assert first.shape != other.shape or not np.array_equal(first, other)
    again = open_source(SHAPES)
    assert np.array_equal(again.train.boxes, source.train.boxes)


def test_either_set_may_be_left_out():
    assert open_source(SHAPES, train=False).train is None
    assert open_source(dataclasses.replace(SHAPES, val=None)).val is None


@pytest.mark.parametrize("train", ["many", "0", "-3", "1.5"])
def test_shapes_want_a_number(train):
    with pytest.raises(DataError, match=r"data\.train"):
        open_source(dataclasses.replace(SHAPES, train=train))


def test_classes_are_trainings_else_validations():
    a, b = annotations("cat"), annotations("dog")
    assert Source(a, b, np.asarray).records is a
    assert Source(None, b, np.asarray).records is b
    with pytest.raises(DataError):
        _ = Source(None, None, np.asarray).records


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_missing_data_say_how_to_get_them(tmp_path, format):
    config = DataConfig(format=format, root=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"mine\.yaml") as found:
        open_source(config, config_name="mine.yaml")
    for words in ("prepare.py", "data.root=", str(tmp_path / "none")):
        assert words in str(found.value)


def test_a_split_that_is_missing_is_named(tmp_path):
    coco(tmp_path, "train", "cat")
    config = DataConfig(format="coco", root=str(tmp_path), train="train", val="val")
    with pytest.raises(DataError, match=r"'val'.*tried"):
        open_source(config)
    assert open_source(dataclasses.replace(config, val=None)).train.classes == ("cat",)


def test_sets_of_different_classes_are_refused(tmp_path):
    coco(tmp_path, "train", "cat", "dog")
    coco(tmp_path, "val", "cat", "cow")
    with pytest.raises(DataError, match=r"(?s)val.json has objects of cow, which are not among the classes cat, dog"):
        open_source(DataConfig(format="coco", root=str(tmp_path), train="train", val="val"))


def test_coco_classes_are_matched_by_name(tmp_path, caplog):
    coco(tmp_path, "train", "cat", "dog", "emu")
    coco(tmp_path, "val", "emu", "cat")
    source = open_source(DataConfig(format="coco", root=str(tmp_path), train="train", val="val"))
    assert source.val.classes == ("cat", "dog", "emu")
    assert source.val.labels.tolist() == [3, 1]
    assert source.val.category_ids == (2, 3, 1)  # its own file's, and the next free one
    assert source.train.category_ids == (1, 2, 3)
    assert "no object of dog" in caplog.text or "val.json has no object of dog" in caplog.text


def test_a_validation_set_without_objects_takes_trainings_classes(tmp_path):
    voc(tmp_path, "train", "dog", "cat")
    voc(tmp_path, "val")
    source = open_source(DataConfig(format="voc", root=str(tmp_path), train="train", val="val"))
    assert (len(source.val), len(source.val.labels), source.val.classes) == (1, 0, ("cat", "dog"))
    with pytest.raises(DataError, match="no classes, none of its 1 images has an object"):
        open_source(DataConfig(format="voc", root=str(tmp_path), train="val", val=None))


def test_large_images_are_read_where_allowed(tmp_path):
    coco(tmp_path, "train", "cat")
    config = DataConfig(format="coco", root=str(tmp_path), train="train", val=None, max_pixels=2399)
    source = open_source(config)
    with pytest.raises(UnreadableImage, match=r"data\.max_pixels=2400"):
        source.read(source.train.files[0])
    source = open_source(dataclasses.replace(config, max_pixels=2400))
    assert source.read(source.train.files[0]).shape == (40, 60, 3)


def test_voc_sets_share_the_union_of_their_classes(tmp_path, caplog):
    voc(tmp_path, "train", "dog", "cat")
    voc(tmp_path, "val", "cow")
    source = open_source(DataConfig(format="voc", root=str(tmp_path), train="train", val="val"))
    assert source.train.classes == source.val.classes == ("cat", "cow", "dog")
    assert source.train.labels.tolist() == [3, 1]
    assert source.val.labels.tolist() == [2]
    assert "no object of cow" in caplog.text
    assert "no object of cat, dog" in caplog.text


def test_a_registered_format_needs_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "_REGISTERED", {})
    made = lambda root, split: annotations("cat", name=f"{root.name}/{split}")  # noqa: E731
    register_format("mine", made, read_image=np.asarray)
    source = open_source(DataConfig(format="mine", root=str(tmp_path / "none"), train="a", val="b"))
    assert (source.train.name, source.val.name) == ("none/a", "none/b")


def test_a_description_counts_what_training_drops():
    boxes = [[[1, 1, 5, 5], [1, 1, 5, 5], [-2, 1, 9, 9]], []]
    records = Annotations.from_arrays(["a", "b"], boxes, [[1, 1, 1], []], ["cat"], sizes=[(40, 60)] * 2)
    text = describe(records, train_objects(records, keep_difficult=False))
    for words in ("2 images (1 without", "3 objects of 1 class", "1 duplicate", "1 clipped"):
        assert words in text
    clean = annotations("cat")
    assert "dropped" not in describe(clean, train_objects(clean, keep_difficult=False))
