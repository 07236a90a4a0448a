import dataclasses

import numpy as np
import pytest
from own_data import coco_set
from ranks import two_ranks

from detection.config import DataConfig
from detection.data.annotations import DataError
from detection.data.coco import read_coco
from detection.data.opening import open_source
from detection.data.splitting.parts import limit_images

OBJECTS = [["cat"], ["dog"], ["cat", "dog"], ["emu"]] * 5


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def config(root, **options):
    return DataConfig(**{"format": "coco", "root": str(root), "train": "all", "val": "0.2", **options})


def test_a_source_is_divided(tmp_path):
    root = coco_set(tmp_path / "set", OBJECTS)
    source = open_source(config(root))
    assert (len(source.train), len(source.val)) == (16, 4)
    assert source.train.classes == source.val.classes
    assert not set(source.train.files) & set(source.val.files)
    assert "train of the split" in source.train.name
    again = open_source(config(root))
    assert list(again.val.files) == list(source.val.files)
    other = open_source(config(root, seed=1))
    assert list(other.val.files) != list(source.val.files)


def test_the_split_of_a_run_comes_before_a_new_one(tmp_path, caplog):
    root = coco_set(tmp_path / "set", OBJECTS)
    source = open_source(config(root, seed=7))
    source.split.write(tmp_path / "split.json")
    again = open_source(config(root), train=False, split_file=tmp_path / "split.json")
    assert again.train is None
    assert list(again.val.files) == list(source.val.files)
    open_source(config(root, val="0.4"), split_file=tmp_path / "split.json")
    assert "data.val asks for" in caplog.text
    by_name = open_source(config(root, val=f"split:{tmp_path / 'split.json'}"))
    assert list(by_name.val.files) == list(source.val.files)


def test_the_test_images(tmp_path):
    root = coco_set(tmp_path / "set", OBJECTS)
    source = open_source(config(root, val="split:0.2:0.2"))
    source.split.write(tmp_path / "split.json")
    test = open_source(config(root, val="split:test"), train=False, split_file=tmp_path / "split.json").val
    assert len(test) == 4
    assert not set(test.files) & ({*source.train.files} | {*source.val.files})
    with pytest.raises(DataError, match=r"there is no split\.json"):
        open_source(config(root, val="split:test"))


def test_no_test_images(tmp_path):
    root = coco_set(tmp_path / "set", OBJECTS)
    open_source(config(root)).split.write(tmp_path / "split.json")
    with pytest.raises(DataError, match="the split has no test images"):
        open_source(config(root, val=f"split:{tmp_path / 'split.json'}:test"))


def _parts(root):
    source = open_source(config(root))
    return list(source.train.files), list(source.val.files), source.split.images


def test_rank_0_decides_for_all(tmp_path, monkeypatch):
    root = coco_set(tmp_path / "set", OBJECTS)
    first, second = two_ranks(_parts, root)
    assert first == second
    assert len(first[1]) == 4


def test_a_limited_set_has_all_classes(tmp_path, caplog):
    caplog.set_level("INFO")
    root = coco_set(tmp_path / "set", [["cat"]] * 18 + [["dog"], ["emu"]])
    records = read_coco(root, "all")
    for seed in range(5):
        limited = limit_images(records, 4, seed)
        assert len(limited) == 4
        assert set(limited.labels.tolist()) == {1, 2, 3}
    assert "of 20 images is cut to 4, which have 3 of its 3 classes" in caplog.text
    assert list(limit_images(records, 4, 1).files) == list(limit_images(records, 4, 1).files)
    assert limit_images(records, 20, 0) is records
    assert limit_images(records, None, 0) is records
    assert limit_images(None, 3, 0) is None
    assert len(limit_images(records, 1, 0)) == 1


def test_limit_of_both_sets_and_of_shapes(tmp_path):
    root = coco_set(tmp_path / "set", OBJECTS)
    source = open_source(config(root, limit=3))
    assert (len(source.train), len(source.val)) == (3, 3)
    shapes = open_source(DataConfig(format="shapes", train="9", val="5", limit=4))
    assert (len(shapes.train), len(shapes.val)) == (4, 4)


def test_limiting_keeps_the_objects_of_the_images(tmp_path):
    records = read_coco(coco_set(tmp_path / "set", OBJECTS), "all")
    limited = limit_images(records, 7, 0)
    for i in range(len(limited)):
        j = list(records.files).index(limited.files[i])
        assert np.array_equal(limited.boxes[limited.objects(i)], records.boxes[records.objects(j)])
    assert dataclasses.replace(limited, name="x").classes == records.classes
