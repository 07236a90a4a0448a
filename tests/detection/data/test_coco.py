import json

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import DataError, Strings, train_objects
from detection.data.coco import read_coco


def content():
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "height": 40, "width": 60},
            {"id": 3, "file_name": "a.jpg", "height": 50, "width": 50},
        ],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 90, "bbox": [5, 6, 20, 10], "area": 123.5, "iscrowd": 0},
            {"id": 1, "image_id": 7, "category_id": 0, "bbox": [0, 0, 60, 40], "is_crowd": 1},
            {"id": 2, "image_id": 3, "category_id": 0, "bbox": [-5, 40, 20, 20], "area": 400},
            {"id": 3, "image_id": 3, "category_id": 0, "bbox": [5, 5, 0, 20], "area": 0},
        ],
        "categories": [{"id": 90, "name": "tooth brush"}, {"id": 0, "name": "person"}],
    }


def write(root, tree, images=("a.jpg", "b.jpg")):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "val").mkdir(exist_ok=True)
    (root / "annotations/instances_val.json").write_text(json.dumps(tree))
    for name in images:
        Image.new("RGB", (60, 50)).save(root / "val" / name)


def test_image_without_size_is_skipped(tmp_path, caplog):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.png").write_text("not an image")
    Image.new("RGB", (50, 40)).save(tmp_path / "val" / "b.png")
    images = [{"id": i, "file_name": name} for i, name in enumerate(("a.png", "b.png"))]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1 + i, 2, 3, 4]} for i in range(2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    records = read_coco(tmp_path, "val")
    assert (records.image_ids, records.sizes.tolist(), records.boxes[:, 0].tolist()) == ([1], [[40, 50]], [2.0])
    assert "has no size for it either" in caplog.text
    (tmp_path / "val" / "b.png").write_text("not an image")
    with pytest.raises(DataError, match="no image has a size"):
        read_coco(tmp_path, "val")


def test_ids_boxes_and_flags(tmp_path):
    write(tmp_path, content())
    records = read_coco(tmp_path, "val")
    assert records.classes == ("person", "tooth brush")
    assert records.category_ids == (0, 90)
    assert list(records.image_ids) == [3, 7]
    assert records.boxes.tolist() == [[-5, 40, 15, 60], [5, 5, 5, 25], [5, 6, 25, 16], [0, 0, 60, 40]]
    assert records.labels.tolist() == [1, 1, 2, 1]
    assert records.crowd.tolist() == [False, False, False, True]
    assert records.areas.tolist() == [400, 0, 123.5, 2400]
    objects = train_objects(records, keep_difficult=False)
    assert objects.dropped == {"crowd": 1, "degenerate": 1}
    assert objects.boxes[objects.keep].tolist() == [[0, 40, 15, 50], [5, 6, 25, 16]]


def test_to_coco_round_trip(tmp_path):
    write(tmp_path, content())
    tree = read_coco(tmp_path, "val").to_coco()
    assert {c["id"]: c["name"] for c in tree["categories"]} == {0: "person", 90: "tooth brush"}
    assert min(a["id"] for a in tree["annotations"]) == 1  # pycocotools takes 0 for "unmatched"
    assert tree["annotations"][2]["bbox"] == [5, 6, 20, 10]
    assert tree["images"][0] == {"id": 3, "file_name": "a.jpg", "height": 50, "width": 50}


@pytest.mark.parametrize(
    ("json_path", "folder", "split"),
    [
        ("annotations/instances_x.json", "x", "x"),
        ("annotations/x.json", "images", "x"),
        ("x/_annotations.coco.json", "x", "x"),
        ("x.json", ".", "x.json"),
        ("annotations/instances_x.json", "images/x", "annotations/instances_x.json"),
    ],
)
def test_layouts(tmp_path, json_path, folder, split):
    for path in (tmp_path / json_path, tmp_path / folder / "a.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / json_path).write_text(json.dumps(content()))
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (60, 50)).save(tmp_path / folder / name)
    assert len(read_coco(tmp_path, split)) == 2


def test_missing_images_are_counted(tmp_path, caplog):
    write(tmp_path, content(), images=["a.jpg"])
    records = read_coco(tmp_path, "val")
    assert list(records.image_ids) == [3]
    assert len(records.labels) == 2
    assert "1 of 2 images not found in" in caplog.text
    assert "b.jpg" in caplog.text


@pytest.mark.parametrize("size", [{}, {"height": 0, "width": 0}, {"height": None, "width": None}])
def test_missing_size_is_read_from_the_image(tmp_path, size):
    tree = content()
    tree["images"][0] = {"id": 7, "file_name": "b.jpg", **size}
    write(tmp_path, tree)
    assert read_coco(tmp_path, "val").sizes.tolist() == [[50, 50], [50, 60]]


def test_no_image_files(tmp_path):
    write(tmp_path, content(), images=[])
    with pytest.raises(DataError, match=r"none of its images \(the first is a.jpg\) found in"):
        read_coco(tmp_path, "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("categories"), "missing the lists categories"),
        (lambda t: t.update(categories=[]), "no classes"),
        (lambda t: t.update(images=[]), "no images"),
        (lambda t: t["annotations"][0].pop("bbox"), "missing or invalid field: 'bbox'"),
        (lambda t: t["annotations"][0].update(category_id=5), "category_id 5, the categories are"),
        (lambda t: t["images"][0].pop("file_name"), "missing or invalid field: 'file_name'"),
        (
            lambda t: t["annotations"][0].update(bbox=[1, 2]),
            "instances_val.json: an entry has a missing or invalid field",
        ),
        (
            lambda t: t["annotations"][0].update(bbox=None),
            "instances_val.json: an entry has a missing or invalid field",
        ),
    ],
)
def test_invalid_json_content_is_reported(tmp_path, change, message):
    tree = content()
    change(tree)
    write(tmp_path, tree)
    with pytest.raises(DataError, match=message):
        read_coco(tmp_path, "val")


def test_invalid_json_and_missing_split(tmp_path):
    write(tmp_path, content())
    with pytest.raises(
        DataError, match=r"no COCO annotations for 'test'.*JSON files found: annotations/instances_val.json"
    ):
        read_coco(tmp_path, "test")
    (tmp_path / "annotations/instances_val.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_coco(tmp_path, "val")


def test_strings_sequence():
    strings = Strings(["a", "", "größer", "b"])
    assert list(strings) == ["a", "", "größer", "b"]
    assert strings[-1] == "b"
    assert strings[1:3] == ["", "größer"]
    with pytest.raises(IndexError):
        strings[4]


@pytest.mark.data
def test_real_annotations(shared):
    train, val = (read_coco(shared / "data/coco549", split) for split in ("train2017", "val2017"))
    assert (len(train), len(val)) == (343, 206)
    assert (len(train.labels), len(val.labels)) == (2974, 1786)
    assert len(train.classes) == 80
    assert (train.category_ids[0], train.category_ids[-1]) == (1, 90)
    assert (int(train.crowd.sum()), int(val.crowd.sum())) == (29, 21)
    assert [int((np.diff(r.offsets) == 0).sum()) for r in (train, val)] == [3, 2]
