import dataclasses
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from detection.data import cache
from detection.data.annotations import Strings
from detection.data.coco import read_coco
from detection.data.voc import read_voc


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_SECONDS", -1.0)
    return tmp_path / "cache" / "annotations"


def count_reads():
    calls = []

    def read():
        calls.append(1)
        return {"a": np.arange(3), "text": cache.encode_json({"x": ["ä", 1]})}

    return calls, read


def test_read_once_until_the_source_changes(cache_dir):
    calls, read = count_reads()
    for _ in range(2):
        arrays = cache.cached("name", (1, 2), read)
        assert arrays["a"].tolist() == [0, 1, 2]
        assert cache.decode_json(arrays["text"]) == {"x": ["ä", 1]}
    assert len(calls) == 1
    cache.cached("name", (1, 3), read)
    cache.cached("other", (1, 3), read)
    assert len(calls) == 3
    assert len(list(cache_dir.iterdir())) == 2  # a new version overwrites the old one


def test_fast_reads_are_not_cached(cache_dir, monkeypatch):
    monkeypatch.setattr(cache, "MIN_SECONDS", 60.0)
    calls, read = count_reads()
    cache.cached("name", 1, read)
    cache.cached("name", 1, read)
    assert len(calls) == 2
    assert not cache_dir.exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None])
def test_corrupt_cache_file_is_ignored(cache_dir, damage):
    calls, read = count_reads()
    cache.cached("name", 1, read)
    (file,) = cache_dir.iterdir()
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    assert cache.cached("name", 1, read)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 2


def test_objects_are_not_unpickled(cache_dir):
    calls, read = count_reads()
    cache.cached("name", 1, read)
    (file,) = cache_dir.iterdir()
    np.savez(file, source=np.array([{"code": "would run"}], dtype=object))
    cache.cached("name", 1, read)
    assert len(calls) == 2


def test_unwritable_cache_only_warns(cache_dir, caplog):
    cache_dir.parent.mkdir()
    cache_dir.write_text("a file where the folder should be")
    _, read = count_reads()
    with caplog.at_level(logging.WARNING):
        assert cache.cached("name", 1, read)["a"].tolist() == [0, 1, 2]
    assert "cannot write the cache" in caplog.text


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
    (root / "JPEGImages" / "c.jpg").write_text("not an image")
    (root / "Annotations" / "c.xml").write_text("<annotation/>")
    (root / "ImageSets" / "Main" / "val.txt").write_text("a\nb\nc\n")


def assert_equal(a, b):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert x.tolist() == y.tolist(), field.name
        elif isinstance(x, Strings):
            assert list(x) == list(y)
        else:
            assert x == y, field.name


@pytest.mark.parametrize("data_format", ["coco", "voc"])
def test_cached_annotations_equal_the_files(tmp_path, monkeypatch, cache_dir, caplog, data_format):
    root = tmp_path / "data"
    read = read_coco if data_format == "coco" else read_voc
    write = (lambda box: coco(root, [box, [0, 0, 5, 5]])) if data_format == "coco" else (lambda box: voc(root, box))
    write([1, 2, 30, 20])
    monkeypatch.setattr(cache, "MIN_SECONDS", 60.0)
    uncached = read(root, "val")
    monkeypatch.setattr(cache, "MIN_SECONDS", -1.0)
    assert_equal(read(root, "val"), uncached)
    if data_format == "voc":  # read errors may be temporary, so nothing is cached
        assert not cache_dir.exists()
        assert "c.jpg cannot be read as an image" in caplog.text
        (root / "ImageSets/Main/val.txt").write_text("a\nb\n")
        uncached = dataclasses.replace(uncached, issues=())
        assert_equal(read(root, "val"), uncached)
    assert len(list(cache_dir.iterdir())) == 1
    assert_equal(read(root, "val"), uncached)
    # a deleted image is noticed despite the cache
    deleted = "val/2.jpg" if data_format == "coco" else "JPEGImages/b.jpg"
    (root / deleted).unlink()
    assert len(read(root, "val")) == 1
    write([1, 2, 31, 20])
    assert read(root, "val").boxes[0, 2] == uncached.boxes[0, 2] + 1
    assert not any(name.endswith(".part") for name in os.listdir(cache_dir))
