import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from detection.data import coco
from detection.data.annotations import DataError, Strings, train_objects
from detection.data.coco import read_coco, read_coco_file


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


SIZES = {"a.jpg": (50, 50), "b.jpg": (60, 40)}  # width, height


def write(root, tree, images=SIZES):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "val").mkdir(exist_ok=True)
    (root / "annotations/instances_val.json").write_text(json.dumps(tree))
    for name in images:
        Image.new("RGB", SIZES[name]).save(root / "val" / name)


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
    assert "1 × missing image (skipped)" in caplog.text
    assert "b.jpg, in" in caplog.text


@pytest.mark.parametrize("size", [{}, {"height": 0, "width": 0}, {"height": None, "width": None}])
def test_missing_size_is_read_from_the_image(tmp_path, size):
    tree = content()
    tree["images"][0] = {"id": 7, "file_name": "b.jpg", **size}
    write(tmp_path, tree)
    assert read_coco(tmp_path, "val").sizes.tolist() == [[50, 50], [40, 60]]


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
        (lambda t: t["annotations"][0].pop("bbox"), "object 0: broken annotations, no bbox"),
        (
            lambda t: t["annotations"][0].update(category_id=5),
            "object 0: unknown class, category_id 5, the categories are 0 person, 90 tooth brush",
        ),
        (lambda t: t["images"][0].pop("file_name"), r"images\[0\]: broken annotations, no file_name"),
        (
            lambda t: t["annotations"][0].update(bbox=[1, 2]),
            r"object 0: broken annotations, bbox \[1, 2\] has 2 values",
        ),
        (lambda t: t["annotations"][0].update(bbox=None), "object 0: broken annotations, bbox None"),
        (lambda t: t["annotations"][0].update(bbox={"x": 1}), r"object 0: broken annotations, bbox {'x': 1}"),
        (lambda t: t["annotations"][0].update(bbox=[1, 2, "wide", 4]), "'wide' is not a number"),
        (lambda t: t["annotations"][1].update(image_id=None), "object 1: broken annotations, image_id None"),
        (lambda t: t["annotations"].append(7), r"annotations\[4\]: broken annotations, 7, expected an object"),
        (lambda t: t["images"].append(t["images"][0]), r"images\[2\]: repeated name, duplicate image id 7"),
        (lambda t: t["categories"].append({"id": 0, "name": "dog"}), r"id 0 is that of 'person' and of 'dog'"),
        (lambda t: t["categories"].append({"id": 4, "name": "person"}), r"name 'person' is that of the ids 0 and 4"),
        (lambda t: t["categories"][0].update(id="zero"), r"categories\[0\]: broken annotations, id 'zero'"),
        (lambda t: t["images"][0].pop("file_name") and t["images"][0].update(coco_url="u/b.jpg"), "coco_url 'u/b.jpg'"),
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
    (tmp_path / "annotations/instances_val.json").write_bytes(b"PK\x03\x04" + bytes(100_000))
    with pytest.raises(DataError, match=r"not valid JSON: it is a zip archive$"):
        read_coco(tmp_path, "val")
    (tmp_path / "annotations/instances_val.json").write_text("[]")
    with pytest.raises(DataError, match="got a list, which may be detections"):
        read_coco(tmp_path, "val")
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


def issues(root):
    return Counter(issue.kind for issue in read_coco(root, "val", strict=False).issues)


def test_all_issues_are_collected_where_the_reading_is_not_strict(tmp_path):
    tree = content()
    tree["annotations"] += [
        {"id": 9, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4]},
        {"id": 10, "image_id": 99, "category_id": 0, "bbox": [1, 2, 3, 4]},
        {"id": 11, "image_id": 7, "category_id": 0, "bbox": [1, 2, 3]},
        {"id": 12, "image_id": 7, "category_id": 0, "bbox": [1, 2, float("nan"), 4]},
    ]
    write(tmp_path, tree)
    records = read_coco(tmp_path, "val", strict=False)
    assert issues(tmp_path) == {
        "unknown class": 1,
        "stray annotation": 1,
        "broken annotations": 1,
        "non-finite box": 1,
    }
    assert list(records.object_names) == ["2", "3", "0", "1"]  # the sound objects, by image


def test_numbers_in_quotes_are_read_and_counted(tmp_path):
    tree = content()
    sound = tree["annotations"]
    write(tmp_path, tree)
    expected = read_coco(tmp_path, "val")
    tree["images"] = [i | {"height": str(i["height"])} for i in tree["images"]]
    tree["annotations"] = [
        a | {"image_id": str(a["image_id"]), "category_id": str(a["category_id"]), "bbox": [str(v) for v in a["bbox"]]}
        for a in sound
    ]
    write(tmp_path, tree)
    records = read_coco(tmp_path, "val")
    for name in ("boxes", "labels", "sizes", "areas", "crowd"):
        assert getattr(records, name).tolist() == getattr(expected, name).tolist()
    found = {issue.found for issue in records.issues if issue.kind == "number in quotes"}
    assert found == {"height: 2", "image_id: 4", "category_id: 4", "bbox: 16"}


def test_difficult_and_ignored_objects_are_difficult(tmp_path):
    tree = content()
    tree["annotations"][0]["ignore"] = 1
    tree["annotations"][2]["difficult"] = True
    write(tmp_path, tree)
    records = read_coco(tmp_path, "val")
    assert records.difficult.tolist() == [True, False, True, False]
    assert issues(tmp_path) == {"ignored objects": 1}
    assert train_objects(records, keep_difficult=False).dropped == {"crowd": 1, "degenerate": 1, "difficult": 2}


@pytest.mark.parametrize("area", [None, float("nan")])
def test_an_area_of_null_is_none(tmp_path, area):
    tree = content()
    tree["annotations"][0]["area"] = area
    write(tmp_path, tree)
    assert read_coco(tmp_path, "val").areas[2] == 200


def test_swapped_sizes_are_read_from_the_images(tmp_path):
    tree = content()
    tree["images"] = [i | {"height": i["width"], "width": i["height"]} for i in tree["images"]]
    tree["annotations"][0]["bbox"] = [45, 6, 15, 10]  # right in an image of 60 x 40
    write(tmp_path, tree)
    records = read_coco(tmp_path, "val")
    assert records.sizes.tolist() == [[50, 50], [40, 60]]
    assert train_objects(records, keep_difficult=False).boxes[2].tolist() == [45, 6, 60, 16]
    assert issues(tmp_path) == {"another size stated": 1}


def test_a_box_beyond_the_edge_makes_the_size_doubtful(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "_SIZE_SAMPLE", 1)  # image a alone is compared anyway
    tree = content()
    tree["images"][0].update(height=60, width=40)
    write(tmp_path, tree)  # the crowd region of 60 x 40 leaves the annotated size
    assert read_coco(tmp_path, "val").sizes.tolist() == [[50, 50], [40, 60]]
    tree["annotations"][1]["bbox"] = [0, 0, 40, 40]
    write(tmp_path, tree)
    assert read_coco(tmp_path, "val").sizes.tolist() == [[50, 50], [60, 40]]


@pytest.mark.parametrize(
    ("boxes", "kind"),
    [
        ([[5, 5, 0.5, 0.4], [0.1, 0.2, 0.3, 0.3]], None),
        ([[0.5, 0.5, 0.5, 0.4], [0.1, 0.2, 0.3, 0.3]], "boxes look relative"),
        ([[20, 10, 40, 30], [30, 15, 58, 39], [10, 20, 20, 30]], "boxes look like x1, y1, x2, y2"),
        ([[20, 10, 40, 30], [30, 15, 28, 20], [10, 20, 20, 30]], None),
    ],
)
def test_boxes_of_another_convention_are_named(tmp_path, boxes, kind):
    tree = content()
    tree["annotations"] = [
        {"id": i, "image_id": 7, "category_id": 0, "bbox": b, "iscrowd": 0} for i, b in enumerate(boxes, 1)
    ]
    write(tmp_path, tree)
    assert [issue.kind for issue in read_coco(tmp_path, "val", strict=False).issues] == ([] if kind is None else [kind])


def test_a_file_listed_twice_and_near_names(tmp_path):
    tree = content()
    tree["images"].append({"id": 9, "file_name": "a.jpg", "height": 50, "width": 50})
    tree["images"].append({"id": 10, "file_name": "..\\val\\B.JPG", "height": 40, "width": 60})
    write(tmp_path, tree)
    records = read_coco(tmp_path, "val")
    assert [issue.kind for issue in records.issues] == ["image listed twice", "missing image"]
    assert "(there is b.jpg)" in records.issues[1].found


def test_an_annotation_file_by_itself(tmp_path):
    tree = content()
    tree["images"][0].update(file_name="cam1/b.jpg", width=None)
    (tmp_path / "a.json").write_text(json.dumps(tree))
    tree = read_coco_file(tmp_path / "a.json").to_coco()
    assert [(i["file_name"], i["height"]) for i in tree["images"]] == [("a.jpg", 50), ("cam1/b.jpg", 0)]
    with pytest.raises(FileNotFoundError):
        read_coco_file(tmp_path / "none.json")


@pytest.mark.data
def test_real_annotations(shared):
    train, val = (read_coco(shared / "data/coco549", split) for split in ("train2017", "val2017"))
    assert (len(train), len(val)) == (343, 206)
    assert (len(train.labels), len(val.labels)) == (2974, 1786)
    assert len(train.classes) == 80
    assert (train.category_ids[0], train.category_ids[-1]) == (1, 90)
    assert (int(train.crowd.sum()), int(val.crowd.sum())) == (29, 21)
    assert [int((np.diff(r.offsets) == 0).sum()) for r in (train, val)] == [3, 2]
