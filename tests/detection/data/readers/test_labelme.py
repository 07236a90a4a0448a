import json

import pytest
from PIL import Image

from detection.data.annotations import DataError, train_objects
from detection.data.readers import labelme
from detection.data.readers.labelme import read_labelme


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def shape(label="cat", points=((30, 40), (10, 20)), kind="rectangle"):
    return {"label": label, "points": [list(p) for p in points], "shape_type": kind, "flags": {}, "group_id": None}


def write(root, split="train", image=True, **files):
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    for name, shapes in files.items():
        if image:
            Image.new("RGB", (200, 100)).save(folder / f"{name}.jpg")
        content = {"version": "5", "imagePath": f"{name}.jpg", "imageHeight": 100, "imageWidth": 200, "shapes": shapes}
        (folder / f"{name}.json").write_text(shapes if isinstance(shapes, str) else json.dumps(content))
    return root


def test_shapes_become_boxes(tmp_path):
    shapes = [
        shape(),  # corners in any order
        shape("dog", ((5, 5), (15, 6), (9, 30)), "polygon"),
        shape("dog", ((50, 50), (53, 54)), "circle"),
        shape(points=((1, 1), (2, 2)), kind="line"),
    ]
    records = read_labelme(write(tmp_path, b=[], a=shapes), "train")
    assert records.boxes.tolist() == [[10, 20, 30, 40], [5, 5, 15, 30], [45, 45, 55, 55]]
    assert (records.classes, records.labels.tolist()) == (("cat", "dog"), [1, 2, 2])
    assert list(records.image_ids) == ["a", "b"]
    assert [(i.kind, i.found) for i in records.issues] == [("shape without a box", "line: 1")]
    assert labelme.recognise(tmp_path)[0] == ["train"]


def test_the_folder_itself_and_sub_folders(tmp_path):
    write(tmp_path, ".", a=[shape()])
    assert labelme.find_splits(tmp_path) == ["."]
    assert len(read_labelme(tmp_path, ".")) == 1
    write(tmp_path, "s/t", b=[shape()])
    assert list(read_labelme(tmp_path, "s").image_ids) == ["t/b"]


def test_the_image_beside_a_file_comes_before_imagepath(tmp_path):
    root = write(tmp_path, a=[shape()])
    content = json.loads((root / "train/a.json").read_text())
    (root / "train/a.json").write_text(json.dumps(content | {"imagePath": "..\\elsewhere\\x.jpg"}))
    assert read_labelme(root, "train").files[0].endswith("train/a.jpg")
    (root / "train/a.json").rename(root / "train/b.json")
    (root / "train/b.json").write_text(json.dumps(content))
    records = read_labelme(root, "train")
    assert records.files[0].endswith("train/a.jpg")
    assert records.issues == ()


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected labelme's JSON"),
        ([{"label": "cat"}], "object 1: broken annotations, no 'points'"),
        ([{"points": [[1, 2], [3, 4]]}], "no 'label'"),
        ([shape(kind="cuboid")], "shape_type 'cuboid' is not known"),
        ([shape(points=((1, 2),))], "expected points"),
        ([shape(points=((1, 2), (3, "x")))], "expected points"),
        ([shape(label=" ")], "is not a class name"),
        (["x"], "'x', expected a shape"),
    ],
)
def test_broken_files_name_file_and_shape(tmp_path, shapes, words):
    root = write(tmp_path, a=shapes, b=[shape()])
    with pytest.raises(DataError, match=rf"a\.json.*{words}"):
        read_labelme(root, "train")
    assert len(read_labelme(root, "train", strict=False).labels) == 1


def test_boxes_that_training_drops(tmp_path):
    points = [((5, 5), (5, 9)), ((300, 5), (310, 9)), ((5, 5), (float("nan"), 9)), ((1, 2), (3, 4)), ((1, 2), (3, 4))]
    records = read_labelme(write(tmp_path, a=[shape(points=p) for p in points]), "train")
    assert [(i.kind, i.object) for i in records.issues] == [("non-finite box", "3")]
    assert train_objects(records, keep_difficult=False).dropped == {"degenerate": 2, "duplicate": 1}


def test_images_and_files_that_are_alone(tmp_path):
    root = write(tmp_path, a=[shape()], c=[shape()])
    Image.new("RGB", (200, 100)).save(root / "train" / "b.jpg")
    (root / "train" / "c.jpg").unlink()
    assert sorted(i.kind for i in read_labelme(root, "train").issues) == ["missing annotations", "missing image"]
    (root / "train" / "a.jpg").unlink()
    with pytest.raises(DataError, match="no image exists together with its JSON file"):
        read_labelme(root, "train")


def test_a_split_that_is_missing(tmp_path):
    root = write(tmp_path, a=[shape()])
    for split in ("none", "../x", "/etc"):
        with pytest.raises(DataError, match=r"no folder.*splits found: train"):
            read_labelme(root, split)
