import json

import numpy as np
import pytest
from hypothesis import given, settings
from scenes import cases, det, random_case, truth

from detection.analysis.matching import MISSED, average_precision, greedy, match, mean
from detection.analysis.scene import overlapping_pairs, scene_from_coco
from detection.data.coco import read_coco_file
from detection.evaluation.coco import coco_metrics
from detection.evaluation.results_io import read_detections


def ap(ground_truth, detections):
    scene = scene_from_coco(ground_truth, detections)
    return average_precision(scene, match(scene, overlapping_pairs(scene)))


def assert_equal(ground_truth, detections):
    metrics, per_class = coco_metrics(ground_truth, detections)
    ours = ap(ground_truth, detections)
    for value, expected in ((mean(ours), "AP"), (mean(ours[:1]), "AP50"), (mean(ours[5:6]), "AP75")):
        assert value == pytest.approx(metrics[expected], abs=1e-12)
    for value, expected in zip(ours.mean(axis=0).tolist(), per_class.values(), strict=True):
        assert (np.isnan(value) and expected is None) or value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_equals_coco(seed):
    assert_equal(*random_case(seed))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_equals_coco_in_hard_cases(case):
    assert_equal(*case)


def test_hand_worked():
    # the better box takes the object, the second is false; a crowd region takes any number
    a, crowd = [0, 0, 10, 10], [50, 50, 40, 40]
    ground_truth = truth((1, 1, a), (1, 1, crowd, {"iscrowd": 1}), (2, 1, a))
    boxes = [
        det(1, 1, a, 0.9),
        det(1, 1, [0, 0, 10, 9], 0.8),
        det(1, 1, [60, 60, 9, 9], 0.7),
        det(1, 1, [52, 52, 9, 9], 0.6),
    ]
    scene = scene_from_coco(ground_truth, boxes)
    matches = match(scene, overlapping_pairs(scene), (0.5,))
    assert matches.true_positive[0].tolist() == [True, False, False, False]
    assert matches.false_positive[0].tolist() == [False, True, False, False]
    assert matches.of_object[0].tolist() == [0, 3, MISSED]
    assert average_precision(scene, matches)[0, 0] == pytest.approx(51 / 101)  # recall 0.5, precision 1


def test_greedy_takes_free_objects_in_order():
    detection, other = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    value = np.array([[0.9, 0.8, 0.95, 0.6]])
    of_detection, of_object = greedy(detection, other, value, np.array([0, 1]), 2)
    assert of_detection.tolist() == [[0, 1]]
    assert of_object.tolist() == [[0, 1]]
    ties = np.array([[0.5, 0.5, -1.0, -1.0]])
    assert greedy(detection, other, ties, np.array([0, 1]), 2)[0].tolist() == [[1, MISSED]]
    assert greedy(detection, other, ties, np.array([0, 1]), 2, last=False)[0].tolist() == [[0, MISSED]]


@pytest.mark.data
def test_equals_coco_on_real_detections(shared):
    folder = shared / "data/evaluation/voc07"
    ground_truth = read_coco_file(folder / "voc07_test.json").to_coco()
    assert_equal(ground_truth, read_detections(folder / "detections.json", ground_truth))
    folder = shared / "data/evaluation/coco"
    ground_truth = json.loads((folder / "instances_val2014_100.json").read_text())
    assert_equal(ground_truth, json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()))
