import json
from collections import Counter

import pytest
from PIL import Image

from detection.config import DataConfig
from detection.data import formats
from detection.data.annotations import Annotations, DataError
from detection.data.formats import register_format
from detection.dataset_check.issues import class_counts
from detection.dataset_check.reading import read_split, source_stamps


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "_REGISTERED", {})


def kinds(contents):
    return Counter(issue.kind for issue in contents.issues)


def coco(root, **changes):
    (root / "val").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40)).save(root / "val" / name)
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 2, "file_name": "b.png"},
        ],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20]},
            {"id": 6, "image_id": 1, "category_id": 7, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
    }
    (root / "val.json").write_text(json.dumps(content | changes))
    return DataConfig(format="coco", root=str(root), val="val")


def voc(root, names, **xmls):
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / "val.txt").write_text("\n".join(names))
    for name, objects in xmls.items():
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        Image.new("RGB", (60, 40)).save(root / "JPEGImages" / f"{name}.jpg")
    return DataConfig(format="voc", root=str(root), val="val")


def element(name, *corners, extra=""):
    tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{tags}</bndbox>{extra}</object>"


def objects(records, i):
    rows = range(*records.objects(i).indices(len(records.labels)))
    return [
        (records.object_name(j, i), records.classes[records.labels[j] - 1], tuple(records.boxes[j].tolist()))
        for j in rows
    ]


def test_a_coco_split_without_faults(tmp_path):
    records = read_split(coco(tmp_path), "val")
    assert records.issues == ()
    assert class_counts(records) == {"cat": 2, "dog": 0}
    assert records.crowd.tolist() == [False, True]
    assert objects(records, 0) == [("5", "cat", (1, 2, 11, 22)), ("6", "cat", (0, 0, 60, 40))]
    assert objects(records, 1) == []
    assert records.sizes.tolist() == [[40, 60], [40, 60]]
    assert [records.file_name(i) for i in range(2)] == ["a.png", "b.png"]


def test_coco_issues_are_all_reported(tmp_path):
    box = [1, 2, 10, 20]
    images = [
        {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 3, "file_name": "none.png", "height": 40, "width": 60},
        {"id": 4},
    ]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": box},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": box},
        {"id": 3, "image_id": 99, "category_id": 7, "bbox": box},
        {"id": 4, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3]},
        {"id": 5, "image_id": [1], "category_id": 7, "bbox": box},
    ]
    contents = read_split(coco(tmp_path, images=images, annotations=annotations), "val")
    assert kinds(contents) == {
        "repeated name": 1,
        "missing image": 1,
        "broken annotations": 3,  # an image and two objects: one with a box of three, one with a list as image id
        "unknown class": 1,
        "stray annotation": 1,
        "unused file": 1,
    }
    assert class_counts(contents) == {"cat": 1, "dog": 0}


@pytest.mark.parametrize("content", ["", "[]", '{"images": []}', '{"images": 1, "annotations": [], "categories": []}'])
def test_a_file_that_is_not_coco_is_refused(tmp_path, content):
    config = coco(tmp_path)
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(DataError, match=r"val\.json"):
        read_split(config, "val")


def test_a_voc_split_without_faults(tmp_path):
    difficult = element("dog", 1, 1, 60, 40, extra="<difficult>1</difficult>")
    contents = read_split(voc(tmp_path, ["a"], a=element("cat", 11, 6, 30, 20) + difficult), "val")
    assert contents.issues == ()
    assert objects(contents, 0) == [("1", "cat", (10, 5, 30, 20)), ("2", "dog", (0, 0, 60, 40))]
    assert class_counts(contents) == {"cat": 1, "dog": 1}
    assert contents.difficult.tolist() == [False, True]


def test_voc_issues_are_all_reported(tmp_path):
    good = element("cat", 1, 1, 9, 9)
    names = ["a", "a", "none", "noxml", "noname", "broken"]
    config = voc(tmp_path, names, a=good, noname="<object><bndbox/></object>" + good, broken=good, noxml=good)
    (tmp_path / "Annotations" / "noxml.xml").unlink()
    (tmp_path / "Annotations" / "broken.xml").write_text("<annotation>")
    contents = read_split(config, "val")
    assert kinds(contents) == {
        "repeated name": 1,
        "missing image": 1,
        "missing annotations": 2,  # "none" has neither
        "broken annotations": 2,
    }
    assert contents.image_ids == ["a", "noname"]
    assert class_counts(contents) == {"cat": 2}


def test_another_file_name_is_noted(tmp_path):
    config = voc(tmp_path, ["a"], a="<filename>b.jpg</filename>" + element("cat", 1, 1, 9, 9))
    assert kinds(read_split(config, "val")) == {"another file name stated": 1}


def test_a_registered_format_is_checked_alike(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    boxes = [[[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 1, 2, 2]]]
    files = [str(tmp_path / "a.png"), str(tmp_path / "none.png")]
    made = Annotations.from_arrays(files, boxes, [[2, 1], [1]], ["cat", "dog"], sizes=[(40, 60)] * 2)
    register_format("mine", lambda root, split: made)
    contents = read_split(DataConfig(format="mine", root=str(tmp_path)), "val")
    assert kinds(contents) == {"missing image": 1}
    assert objects(contents, 0) == [("1", "dog", (1, 2, 3, 4)), ("2", "cat", (5, 6, 7, 8))]
    assert class_counts(contents) == {"cat": 1, "dog": 1}


@pytest.mark.parametrize(("format", "words"), [("shapes", "synthetic"), ("coco", "no folder"), ("voc", "no folder")])
def test_nothing_to_check_is_an_error(tmp_path, format, words):
    with pytest.raises(DataError, match=words):
        read_split(DataConfig(format=format, root=str(tmp_path / "none")), "val")


def test_stamps_change_with_the_files_that_are_read(tmp_path):
    config = coco(tmp_path)
    before = source_stamps(config, "val")
    assert source_stamps(config, "val") == before
    (tmp_path / "val.json").write_text((tmp_path / "val.json").read_text() + " ")
    assert source_stamps(config, "val") != before
    assert source_stamps(DataConfig(format="mine", root=str(tmp_path)), "val") is None


def test_stamps_of_voc_cover_every_xml(tmp_path):
    config = voc(tmp_path, ["a", "none"], a=element("cat", 1, 1, 9, 9))
    before = source_stamps(config, "val")
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation/>")
    assert source_stamps(config, "val") != before
