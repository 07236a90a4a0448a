import pytest
from scenes import random_case, truth

from detection.evaluation.coco import coco_metrics
from detection.report.analysis import analyse


def test_threshold_is_that_of_the_best_f1():
    ground_truth, detections = random_case(0)
    analysis = analyse(ground_truth, detections)
    assert analysis.threshold == analysis.curve.best_f1()[1]
    assert analysis.ap.mean() == pytest.approx(coco_metrics(ground_truth, detections)[0]["AP"], abs=1e-12)


def test_without_detections_it_is_a_half():
    assert analyse(truth((1, 1, [0, 0, 9, 9])), []).threshold == 0.5
