import json

import numpy as np
import pytest
import tiny
from scenes import truth

from detection.analysis.scene import scene_from_coco
from detection.report import history


def log(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_curves_and_speed(tmp_path):
    assert history.curves(tmp_path) is history.speed(tmp_path) is None
    rows = [
        {"step": i, "loss": 2.0, "loss_box": 1.0, "lr": 0.1, "seconds": 1.0 + i % 3, "memory_mb": None}
        for i in range(1, 1001)
    ]
    log(tmp_path, [*rows, {"step": 1000, "AP": 0.5}])
    curves = history.curves(tmp_path)
    assert 300 < len(curves["step"]) <= 400
    assert set(curves["losses"]) == {"loss", "loss_box"}
    assert curves["evaluations"] == [{"step": 1000, "AP": 0.5}]
    assert history.speed(tmp_path) == {
        "seconds": 2.0,
        "data_seconds": None,
        "images_per_second": None,
        "memory_mb": None,
    }
    log(tmp_path, [])
    assert history.curves(tmp_path)["step"] == []


def test_drift_of_equal_and_of_other_data(tmp_path):
    records = tiny.records(4)
    scene = scene_from_coco(records.to_coco(), [])
    same = history.drift(scene, records, records, tiny.pixels)
    assert same["class_distance"] == same["size_distance"] == 0
    assert same["brightness"][0] == same["brightness"][1]
    assert same["brightness"][0]["mean"] == pytest.approx(0.5, abs=0.05)
    other = scene_from_coco(truth((1, 1, [0, 0, 9, 9]), names=tiny.CLASSES), [])
    assert history.drift(other, records, None, None)["class_distance"] == pytest.approx(1 / 3)


def test_files_in_both(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
    path = {name: str(tmp_path / name) for name in "abcd"}
    assert history.shared_files([path["a"], path["b"]], [path["c"], path["d"]]) == [[path["a"], path["c"]]]
    assert history.shared_files(["synthetic"], ["other"]) == []
    assert np.isfinite(len(path))
