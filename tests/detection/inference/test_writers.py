"""Each format by hand, and read back by what reads it."""

import csv
import json

import numpy as np
import pytest

from detection.data.voc import read_voc_ground_truth
from detection.inference.detections import Detections
from detection.inference.sources import Frame
from detection.inference.writers import COLUMNS, WRITERS

CLASSES, IDS = ("=cat", "dog & bird"), (3, 8)
FOUND = Detections(
    np.array([[10, 20, 50, 80], [0, 0, 4, 5]], np.float32),
    np.array([0.75, 0.5], np.float32),
    np.array([2, 1]),
    CLASSES,
    IDS,
)
FRAME = Frame("in/a.png", np.zeros((100, 200, 3), np.uint8))
LATER = Frame("film.mp4", FRAME.image, 3, 0.12)


def write(tmp_path, kind):
    writer = WRITERS[kind](tmp_path, CLASSES, IDS)
    writer.add(FRAME, FOUND, "a")
    writer.add(LATER, FOUND[:0], "film-000003")
    return writer.finish()


def test_coco(tmp_path):
    assert write(tmp_path, "coco") == ["detections.json"]
    content = json.loads((tmp_path / "detections.json").read_text())
    assert content["images"][1] == {
        "id": 2,
        "file_name": "film.mp4",
        "height": 100,
        "width": 200,
        "frame": 3,
        "seconds": 0.12,
    }
    assert content["annotations"][0] == {
        **{
            "id": 1,
            "image_id": 1,
            "category_id": 8,
            "bbox": [10, 20, 40, 60],
            "score": 0.75,
            "area": 2400,
            "iscrowd": 0,
        }
    }
    assert content["categories"][0] == {"id": 3, "name": "=cat"}


def test_yolo(tmp_path):
    assert write(tmp_path, "yolo") == ["labels", "classes.txt"]
    lines = (tmp_path / "labels" / "a.txt").read_text().splitlines()
    assert [float(x) for x in lines[0].split()] == [1, 0.15, 0.5, 0.2, 0.6, 0.75]
    assert lines[1].startswith("0 ")
    assert (tmp_path / "labels" / "film-000003.txt").read_text() == ""
    assert (tmp_path / "classes.txt").read_text().splitlines() == list(CLASSES)


def test_voc_is_read_back(tmp_path):
    assert write(tmp_path, "voc") == ["annotations"]
    (tmp_path / "annotations").rename(tmp_path / "Annotations")
    records = read_voc_ground_truth(tmp_path).to_coco()
    assert sorted(c["name"] for c in records["categories"]) == sorted(CLASSES)
    assert sorted(a["bbox"] for a in records["annotations"]) == [[0, 0, 4, 5], [10, 20, 40, 60]]


def test_csv(tmp_path):
    assert write(tmp_path, "csv") == ["detections.csv"]
    with (tmp_path / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["class"] == "dog & bird"
    assert rows[1]["class"] == "'=cat"  # no formula
    assert [float(rows[0][c]) for c in ("score", "x1", "y1", "x2", "y2")] == [0.75, 10, 20, 50, 80]


def test_json_lines(tmp_path):
    assert write(tmp_path, "jsonl") == ["detections.jsonl"]
    first, second = (json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines())
    assert first["detections"][0] == {"class": "dog & bird", "category_id": 8, "score": 0.75, "box": [10, 20, 50, 80]}
    assert (second["frame"], second["detections"]) == (3, [])


@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_is_a_file_too(tmp_path, kind):
    files = WRITERS[kind](tmp_path, CLASSES, IDS).finish()
    assert all((tmp_path / name).exists() for name in files)
