import dataclasses
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from detection.data import cache
from detection.data.coco import read_coco
from detection.data.voc import read_voc


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SLOW", -1.0)
    return tmp_path / "cache" / "annotations"


def count_reads():
    calls = []

    def read():
        calls.append(1)
        return {"a": np.arange(3), "text": cache.text_array({"x": ["ä", 1]})}

    return calls, read


def test_read_once_until_the_source_changes(own_cache):
    calls, read = count_reads()
    for _ in range(2):
        found = cache.kept("name", (1, 2), read)
        assert found["a"].tolist() == [0, 1, 2]
        assert cache.text_of(found["text"]) == {"x": ["ä", 1]}
    assert len(calls) == 1
    cache.kept("name", (1, 3), read)
    cache.kept("other", (1, 3), read)
    assert len(calls) == 3
    assert len(list(own_cache.iterdir())) == 2  # a later version takes the place of an earlier


def test_what_is_read_fast_is_not_kept(own_cache, monkeypatch):
    monkeypatch.setattr(cache, "SLOW", 60.0)
    calls, read = count_reads()
    cache.kept("name", 1, read)
    cache.kept("name", 1, read)
    assert len(calls) == 2
    assert not own_cache.exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None])
def test_a_damaged_file_counts_as_absent(own_cache, damage):
    calls, read = count_reads()
    cache.kept("name", 1, read)
    (file,) = own_cache.iterdir()
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    assert cache.kept("name", 1, read)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 2


def test_objects_are_not_unpickled(own_cache):
    calls, read = count_reads()
    cache.kept("name", 1, read)
    (file,) = own_cache.iterdir()
    np.savez(file, source=np.array([{"code": "would run"}], dtype=object))
    cache.kept("name", 1, read)
    assert len(calls) == 2


def test_a_place_that_cannot_be_written_is_said_and_survived(own_cache, caplog):
    own_cache.parent.mkdir()
    own_cache.write_text("a file where the folder should be")
    _, read = count_reads()
    with caplog.at_level(logging.WARNING):
        assert cache.kept("name", 1, read)["a"].tolist() == [0, 1, 2]
    assert "cannot be kept" in caplog.text


def coco(root, boxes):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "val").mkdir(exist_ok=True)
    for i in (1, 2):
        Image.new("RGB", (50, 40)).save(root / "val" / f"{i}.jpg")
    images = [{"id": 1, "file_name": "1.jpg", "height": 40, "width": 50}, {"id": 2, "file_name": "2.jpg"}]
    rows = [{"id": i, "image_id": 1, "category_id": 7, "bbox": box} for i, box in enumerate(boxes)]
    content = {"images": images, "annotations": rows, "categories": [{"id": 7, "name": "thing"}]}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))


def voc(root, box):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    for name in "ab":
        Image.new("RGB", (50, 40)).save(root / "JPEGImages" / f"{name}.jpg")
        xml = f"<annotation><object><name>thing</name><bndbox>{tags}</bndbox></object></annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(xml)
    (root / "JPEGImages" / "c.jpg").write_text("no picture")
    (root / "Annotations" / "c.xml").write_text("<annotation/>")
    (root / "ImageSets" / "Main" / "val.txt").write_text("a\nb\nc\n")


def same(a, b):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert x.tolist() == y.tolist(), field.name
        elif field.name == "files":
            assert list(x) == list(y)
        else:
            assert x == y, field.name


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_kept_annotations_are_those_of_the_files(tmp_path, monkeypatch, own_cache, caplog, form):
    root = tmp_path / "data"
    read = read_coco if form == "coco" else read_voc
    write = (lambda box: coco(root, [box, [0, 0, 5, 5]])) if form == "coco" else (lambda box: voc(root, box))
    write([1, 2, 30, 20])
    monkeypatch.setattr(cache, "SLOW", 60.0)
    plain = read(root, "val")
    monkeypatch.setattr(cache, "SLOW", -1.0)
    same(read(root, "val"), plain)
    if form == "voc":  # a picture that cannot be read today may be read tomorrow
        assert not own_cache.exists()
        assert "c.jpg cannot be read as an image" in caplog.text
        (root / "ImageSets/Main/val.txt").write_text("a\nb\n")
        same(read(root, "val"), plain)
    assert len(list(own_cache.iterdir())) == 1
    same(read(root, "val"), plain)
    # a picture that goes away is missed at once, whatever is kept
    gone = "val/2.jpg" if form == "coco" else "JPEGImages/b.jpg"
    (root / gone).unlink()
    assert len(read(root, "val")) == 1
    write([1, 2, 31, 20])
    assert read(root, "val").boxes[0, 2] == plain.boxes[0, 2] + 1
    assert not any(name.endswith(".part.npz") for name in os.listdir(own_cache))
