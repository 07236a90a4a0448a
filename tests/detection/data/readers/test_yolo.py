import json

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import DataError, train_objects
from detection.data.readers import yolo
from detection.data.readers.yolo import label_file, read_yolo

SIZE = (200, 100)  # width, height


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def write(root, split="train", yaml="train: images/train\nnames: [cat, dog]\n", **labels):
    """A YOLO split; ``labels`` are an image's rows, None writes no label file."""
    for folder in ("images", "labels"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    for name, rows in labels.items():
        Image.new("RGB", SIZE).save(root / "images" / split / f"{name}.jpg")
        if rows is not None:
            (root / "labels" / split / f"{name}.txt").write_text(rows)
    if yaml:
        (root / "data.yaml").write_text(yaml)
    return root


def kinds(records):
    return [issue.kind for issue in records.issues]


def test_boxes_polygons_and_rotated_boxes_in_pixels(tmp_path):
    rows = [
        "1 0.5 0.5 0.2 0.4",  # box
        "0 0.1 0.2 0.3 0.2 0.2 0.6",  # triangle
        "0 0.1 0.2 0.5 0.3 0.4 0.9 0.05 0.8",  # four corners of a rotated box
    ]
    records = read_yolo(write(tmp_path, a="\n".join(rows)), "train")
    assert records.boxes.tolist() == [[80, 30, 120, 70], [20, 20, 60, 60], [10, 20, 100, 90]]
    assert records.labels.tolist() == [2, 1, 1]
    assert (records.classes, records.category_ids) == (("cat", "dog"), (1, 2))
    assert list(records.image_ids) == ["a"]
    assert records.sizes.tolist() == [[100, 200]]
    assert records.areas.tolist() == [1600, 1600, 6300]


def test_images_without_objects(tmp_path):
    records = read_yolo(write(tmp_path, a="0 .5 .5 .1 .1", b="", c=None, d="\n \n"), "train")
    assert np.diff(records.offsets).tolist() == [1, 0, 0, 0]
    assert [(i.kind, i.found[:6]) for i in records.issues] == [("image without label file", "1 of 4")]


def test_no_labels_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no label file for any of its 2 images.*labels/train/a\.txt"):
        read_yolo(write(tmp_path, a=None, b=None), "train")


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ("0 0.5 0.5 x 0.1", "broken annotations", "could not convert"),
        ("0 0.5 0.5 0.1", "broken annotations", "4 values"),
        ("0 0.5 0.5 0.1 0.1 0.9", "broken annotations", "confidence"),
        ("0.5 0.5 0.5 0.1 0.1", "broken annotations", "class id"),
        ("-1 0.5 0.5 0.1 0.1", "broken annotations", "class id"),
        ("2 0.5 0.5 0.1 0.1", "unknown class", "class 2, the classes are 0 to 1"),
        ("99999999999999999999 0.5 0.5 0.1 0.1", "broken annotations", "class id"),
    ],
)
def test_what_is_refused_names_file_and_line(tmp_path, row, kind, words):
    root = write(tmp_path, a=f"0 .5 .5 .1 .1\n\n{row}\n")
    with pytest.raises(DataError, match=rf"labels/train/a\.txt, line 3: {kind}.*{words}"):
        read_yolo(root, "train")
    records = read_yolo(root, "train", strict=False)
    assert kinds(records) == [kind]
    assert len(records.labels) == 1


def test_values_that_training_drops_or_clips(tmp_path):
    rows = [
        "0 .5 .5 .1 .1",
        "0 .5 .5 .1 .1",
        "0 nan .5 .1 .1",
        "0 .5 .5 0 .1",
        "0 1.5 .5 .1 .1",
        "0 .95 .5 .2 .1",
        "0.0 .5 .5 .2 .2",
    ]
    records = read_yolo(write(tmp_path, a="\n".join(rows)), "train")
    objects = train_objects(records, keep_difficult=False)
    assert kinds(records) == ["non-finite box"]
    assert objects.dropped == {"degenerate": 2, "duplicate": 1}
    assert objects.clipped == 1
    assert [records.object_name(j, 0) for j in np.flatnonzero(objects.keep)] == ["line 1", "line 6", "line 7"]


def test_six_decimals_do_not_cross_the_edge(tmp_path):
    records = read_yolo(write(tmp_path, a="0 0.5 0.5 1.000001 1\n0 0.666667 0.5 0.666667 0.3"), "train")
    assert records.boxes[0].tolist() == [0, 0, 200, 100]
    assert records.boxes[1, 2] == 200
    assert train_objects(records, keep_difficult=False).clipped == 0


def test_boxes_in_pixels_are_refused(tmp_path):
    with pytest.raises(DataError, match="boxes look like pixels, most lie beyond 1"):
        read_yolo(write(tmp_path, a="0 50 40 20 30\n1 80 60 50 40"), "train")


def test_boxes_that_look_like_corners_are_named(tmp_path):
    records = read_yolo(write(tmp_path, a="0 .4 .4 .9 .9\n1 .5 .6 .9 .95\n0 .1 .1 .2 .2"), "train", strict=False)
    assert "boxes look like x1, y1, x2, y2" in kinds(records)


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nnames: {0: cat, 1: dog}",
        "train: images/train\nnames:\n  1: dog\n  0: cat",
        "train: [images/train]\nnames: [cat, dog]\nnc: 2",
        "path: .\ntrain: images/train\nnames: [cat, dog]",
        "path: ../datasets/elsewhere\ntrain: images/train\nnames: [cat, dog]",
        "train: ../images/train\nval: ../valid/images\nnames: ['cat', 'dog']",  # Roboflow's
        "train: list.txt\nnames: [cat, dog]",
        "names: [cat, dog]",
        "﻿names: [cat, dog]",
    ],
)
def test_forms_of_data_yaml(tmp_path, yaml):
    root = write(tmp_path / "set", yaml=yaml, b="1 .5 .5 .2 .4", a="0 .5 .5 .2 .4")
    (root / "list.txt").write_text("./images/train/b.jpg\nimages/train/a.jpg\n")
    records = read_yolo(root, "train")
    assert records.classes == ("cat", "dog")
    assert list(records.image_ids) == (["b", "a"] if "list" in yaml else ["a", "b"])  # a list's order is kept
    assert records.labels.tolist() == ([2, 1] if "list" in yaml else [1, 2])


def test_the_yaml_file_may_be_the_root(tmp_path):
    root = write(tmp_path, a="0 .5 .5 .2 .4")
    (root / "other.yaml").write_text("train: images/train\nnames: [x]")
    assert read_yolo(root / "other.yaml", "train").classes == ("x",)
    assert read_yolo(root, "train").classes == ("cat", "dog")  # data.yaml before others
    (root / "data.yaml").rename(root / "third.yaml")
    with pytest.raises(DataError, match=r"several files name classes: other\.yaml, third\.yaml"):
        read_yolo(root, "train")


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [cat", "not valid YAML"),
        ("- a", "expected the keys"),
        ("train: images/train\nnames: [cat, cat]", "repeated class"),
        ("train: images/train\nnames: [cat, dog]\nnc: 3", "nc: 3, and names has 2"),
        ("train: images/train\nnames: {a: cat}", "class id is a whole number"),
        ("train: images/train\nnames: [[cat], dog]", "is not a class name"),
        ("train: {a: b}\nnames: [cat, dog]", "is not a path or a list"),
        ("train: images/none\nnames: [cat, dog]", "images/none does not exist"),
    ],
)
def test_broken_yaml_files(tmp_path, yaml, words):
    with pytest.raises(DataError, match=words):
        read_yolo(write(tmp_path, yaml=yaml, a="0 .5 .5 .1 .1"), "train")


def test_folders_without_yaml(tmp_path):
    root = write(tmp_path, yaml="", a="1 .5 .5 .1 .1")
    assert read_yolo(root, "train").classes == ("0", "1")
    (root / "classes.txt").write_text("cat\ndog\n\n")
    assert read_yolo(root, "train").classes == ("cat", "dog")
    assert yolo.recognise(root) == (["train"], "labels/train/a.txt has rows of a class and a box")


def test_roboflow_folders(tmp_path):
    for split in ("train", "valid"):
        for folder in ("images", "labels"):
            (tmp_path / split / folder).mkdir(parents=True)
        Image.new("RGB", SIZE).save(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "labels" / "a.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
    assert len(read_yolo(tmp_path, "val")) == len(read_yolo(tmp_path, "valid")) == 1
    assert "valid/images" in read_yolo(tmp_path, "val").files[0]
    assert len(read_yolo(tmp_path, "train+val")) == 2
    assert yolo.recognise(tmp_path)[0] == ["train", "val"]


def test_darknet_as_cvat_exports_it(tmp_path):
    (tmp_path / "obj_train_data").mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "obj_train_data" / "a.jpg")
    (tmp_path / "obj_train_data" / "a.txt").write_text("1 .5 .5 .5 .5")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    records = read_yolo(tmp_path, "train")
    assert (records.classes, records.labels.tolist()) == (("cat", "dog"), [2])
    assert yolo.recognise(tmp_path) == (["train"], "obj.data names classes")


def test_missing_images_and_labels_without_images(tmp_path):
    root = write(tmp_path, yaml="train: list.txt\nval: images/train\nnames: [cat]", A="0 .5 .5 .1 .1")
    (root / "labels/train/z.txt").write_text("0 .5 .5 .1 .1")
    (root / "labels/train/classes.txt").write_text("cat\n")
    (root / "list.txt").write_text("images/train/A.jpg\nimages/train/a.jpg\nimages/train/A.jpg")
    found = {i.kind: i.found for i in read_yolo(root, "train", strict=False).issues}
    assert "there is A.jpg" in found["missing image"]
    assert "repeated name" in found
    folder = read_yolo(root, "val")
    assert [(i.kind, i.file) for i in folder.issues] == [("missing image", f"{root}/labels/train/z.txt")]


def test_a_split_that_is_missing_lists_those_there_are(tmp_path):
    with pytest.raises(DataError, match=r"no YOLO split 'test'.*splits found: train"):
        read_yolo(write(tmp_path, a="0 .5 .5 .1 .1"), "test")
    for split in ("../x", "/etc", "a\0b"):
        with pytest.raises(DataError, match="no YOLO split"):
            read_yolo(tmp_path, split)


def test_two_images_of_one_label_file_are_refused(tmp_path):
    root = write(tmp_path, a="0 .5 .5 .1 .1")
    Image.new("RGB", SIZE).save(root / "images/train/a.png")
    with pytest.raises(DataError, match="several images of one name"):
        read_yolo(root, "train")


def test_an_unreadable_image_is_left_out(tmp_path):
    root = write(tmp_path, a="0 .5 .5 .1 .1", b="1 .5 .5 .2 .2")
    (root / "images/train/a.jpg").write_text("no image")
    records = read_yolo(root, "train")
    assert (kinds(records), records.labels.tolist()) == (["unreadable image"], [2])


def test_keypoints_are_passed_over(tmp_path):
    yaml = "train: images/train\nnames: [cat]\nkpt_shape: [2, 3]"
    records = read_yolo(write(tmp_path, yaml=yaml, a="0 .5 .5 .2 .4 .1 .1 2 .9 .9 2"), "train")
    assert records.boxes.tolist() == [[80, 30, 120, 70]]


def test_other_encodings(tmp_path):
    root = write(tmp_path, a="", b="")
    (root / "labels/train/a.txt").write_text("0 .5 .5 .2 .4", encoding="utf-16")
    (root / "labels/train/b.txt").write_text("0 .5 .5 .2 .4\r\n", encoding="utf-8-sig")
    assert len(read_yolo(root, "train").labels) == 2


def test_an_exif_rotated_image_has_its_rotated_size(tmp_path):
    root = write(tmp_path, a="0 .5 .5 .2 .4")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(root / "images/train/a.jpg", exif=exif)
    assert read_yolo(root, "train").boxes.tolist() == [[40, 60, 60, 140]]


def test_the_cache_follows_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr("detection.data.cache.MIN_SECONDS", 0)
    root = write(tmp_path, a="0 .5 .5 .2 .4")
    first = read_yolo(root, "train")
    monkeypatch.setattr(yolo, "_read", lambda *args: pytest.fail("read again"))
    again = read_yolo(root, "train")
    assert json.dumps(again.to_coco()) == json.dumps(first.to_coco())
    monkeypatch.undo()
    (root / "labels/train/a.txt").write_text("0 .5 .5 .2 .4\n1 .5 .5 .2 .5")
    assert len(read_yolo(root, "train").labels) == 2


def test_label_files():
    assert label_file("/a/images/b/images/c/d.e.jpg") == "/a/images/b/labels/c/d.e.txt"
    assert label_file("/a/pictures/d.jpg") == "/a/pictures/d.txt"
