from pathlib import Path

import numpy as np
import pytest

from detection.data.readers import coco_entries
from detection.data.readers.coco_entries import CocoParser, sound_objects


def content(**changes):
    entry = {"id": 5, "image_id": 2, "category_id": 9, "bbox": [1, 2.5, 3, 4], "area": 7.5, "iscrowd": 0}
    other = {"id": 4, "image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 6], "area": 30, "iscrowd": 1}
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 10, "width": 20} for i in (3, 2, 1)]
    categories = [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "categories": categories, "annotations": [entry, other, entry | {"id": 6} | changes]}


def arrays(tree):
    return {key: value.tolist() for key, value in CocoParser(Path("a.json")).parse(tree).items()}


@pytest.mark.parametrize("changes", [{}, {"area": 3}, {"iscrowd": True}, {"iscrowd": 1.0}, {"bbox": [-1, 2, 0, 4]}])
def test_columns_equal_entries_one_after_the_other(monkeypatch, changes):
    tree = content(**changes)
    calls = []
    monkeypatch.setattr(coco_entries, "sound_objects", lambda *a: calls.append(sound_objects(*a)) or calls[-1])
    columns = arrays(tree)
    assert calls[0] is not None
    monkeypatch.setattr(coco_entries, "sound_objects", lambda *_: None)
    assert arrays(tree) == columns
    assert columns["counts"] == [1, 2, 0]  # images 1, 2, 3


@pytest.mark.parametrize(
    "changes",
    [
        {"area": None},
        {"area": True},
        {"area": float("nan")},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, "4"]},
        {"bbox": [1, 2, 3, True]},
        {"bbox": [1, 2, 3, float("inf")]},
        {"bbox": [1, 2, 3, 10**400]},
        {"bbox": None},
        {"bbox": {"x": 1}},
        {"image_id": "2"},
        {"image_id": 2.0},
        {"image_id": True},
        {"image_id": [2]},
        {"category_id": 4},
        {"id": "6"},
        {"iscrowd": "0"},
        {"difficult": 0},
        {"ignore": 1},
        {"is_crowd": 1},
    ],
)
def test_anything_else_is_read_one_after_the_other(changes):
    tree = content(**changes)
    rows, labels = {1: 0, 2: 1, 3: 2}, {3: 1, 9: 2}
    assert sound_objects(tree["annotations"], rows, labels) is None
    assert sound_objects([*content()["annotations"], None], rows, labels) is None
    assert sound_objects(content()["annotations"], rows, labels) is not None


def test_no_entries():
    objects = sound_objects([], {1: 0}, {1: 1})
    assert objects.xywh.shape == (0, 4)
    assert objects.counts.tolist() == [0]
    assert np.array_equal(objects.labels, [])
