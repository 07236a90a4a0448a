import numpy as np
import pytest
from scenes import det, truth

from detection.analysis.localisation import bias, iou_histogram, offsets
from detection.analysis.matching import match
from detection.analysis.scene import overlapping_pairs, scene_from_coco


def analysed(ground_truth, detections):
    scene = scene_from_coco(ground_truth, detections)
    return offsets(scene, match(scene, overlapping_pairs(scene)))


def test_a_box_moved_and_grown():
    # 4 to the right of 40, and a quarter higher at the bottom; another detection is on nothing
    found = analysed(
        truth((1, 1, [20, 20, 40, 40])), [det(1, 1, [24, 20, 40, 50], 0.9), det(1, 1, [80, 80, 9, 9], 0.8)]
    )
    assert found.shift.tolist() == [pytest.approx([0.1, 0.125, 0, 0.25])]
    assert found.iou.tolist() == pytest.approx([1440 / (1600 + 2000 - 1440)])


def test_bias_and_histogram():
    assert bias(np.array([[0.0, 1, 2, 3], [2.0, 1, 2, 3]]))[:2] == [(1.0, 0.5, 1.5), (1.0, 1.0, 1.0)]
    assert bias(np.zeros((0, 4))) == []
    assert iou_histogram(np.array([0.5, 0.54, 0.56, 1.0])).tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_nothing_found():
    assert len(analysed(truth((1, 1, [0, 0, 9, 9])), []).iou) == 0
