import base64

import numpy as np
from scenes import det, random_case, truth

from detection.report import arrays
from detection.report.analysis import analyse


def unpack(array):
    return np.frombuffer(base64.b64decode(array["base64"]), "<" + array["type"])


def test_levels_divide_scores_exactly():
    score = np.array([0.0, 0.4999, 0.5, 0.3, 0.7, 1.0])
    assert arrays.score_levels(score, 0, 1).tolist() == [0, 4999, 5000, 3000, 7000, 10000]
    assert arrays.score_range(score) == (0, 1)
    assert arrays.score_range(np.array([-2.0, 3])) == (-2, 3)
    assert arrays.score_range(np.zeros(0)) == (0, 1)


def test_columns():
    a, b = [0, 0, 10, 10], [50, 50, 10, 10]
    analysis = analyse(
        truth((1, 1, a), (1, 2, b), (2, 1, b, {"iscrowd": 1})),
        [det(1, 1, a, 0.9), det(1, 1, b, 0.8), det(2, 1, b, 0.7)],
    )
    content = arrays.page_arrays(analysis)
    detections = {k: unpack(v).tolist() for k, v in content["detections"].items()}
    objects = {k: unpack(v).tolist() for k, v in content["objects"].items()}
    assert detections["state"] == [1, 0, 2]
    assert detections["row"] == [0, 1, 3]
    assert detections["level"] == [9000, 8000, 7000]
    assert objects["found"] == [9001, 0, 7001]
    assert objects["found_any"] == [9001, 8001, 0]
    assert objects["found_label"] == [0, 0, 2]
    assert objects["ignored"] == [0, 0, 1]


def test_the_best_detections_stay_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(arrays, "MAX_DETECTIONS", 10)
    analysis = analyse(*random_case(0))
    content = arrays.page_arrays(analysis)
    level = unpack(content["detections"]["level"])
    assert len(level) == 10
    assert content["left_out"] == len(analysis.scene.score) - 10
    assert level.min() >= np.sort(arrays.score_levels(analysis.scene.score, 0, 1))[-10]
