import numpy as np
import pytest
from scenes import det, random_case, truth

from detection.evaluation.coco import coco_metrics
from detection.report import details
from detection.report.analysis import analyse


def test_intervals_hold_the_value():
    ground_truth, detections = random_case(0)
    metrics, _ = coco_metrics(ground_truth, detections)
    intervals = details.intervals(analyse(ground_truth, detections))
    assert set(intervals) == set(metrics)
    for name, (low, high) in intervals.items():
        assert low <= metrics[name] <= high
        assert high > low


def test_bins_and_boxes_count_the_objects():
    analysis = analyse(*random_case(0))
    bins = details.bins(analysis)
    assert sum(row["objects"] for row in bins["side"]) == analysis.scene.counted.sum()
    assert bins["ignored"]["objects"] == analysis.scene.object_ignored.sum()
    boxes = details.boxes(analysis)
    assert sum(boxes["iou"]) == boxes["count"] == analysis.matches.true_positive[0].sum()
    assert len(details.calibrations(analysis)["per_class"]) == 4


def test_doubtful_labels():
    analysis = analyse(
        truth((1, 2, [50, 50, 10, 10])), [det(1, 1, [50, 50, 10, 10], 0.9), det(2, 1, [0, 0, 9, 9], 0.8)]
    )
    labels = details.doubtful_labels(analysis)
    assert labels["count"] == {"missing": 1, "wrong class": 1, "badly placed": 0}
    assert labels["rows"][0] | {} == {
        **{"kind": "wrong class", "image": 0, "image_id": 1, "file": "1.jpg", "class": "cat", "category_id": 1},
        **{"bbox": [50, 50, 10, 10], "score": 0.9, "annotation": 1, "annotated_class": "dog", "iou": 1.0},
    }


def test_comparison_and_slices():
    ground_truth, detections = random_case(0)
    first, second = analyse(ground_truth, detections), analyse(ground_truth, detections[::2])
    result = details.comparison(first, second, "other")
    assert result["won"] + result["lost"] + result["equal"] == 30
    a, b = (coco_metrics(ground_truth, d)[0]["AP"] for d in (detections, detections[::2]))
    assert result["metrics"]["AP"]["difference"] == pytest.approx(a - b, abs=1e-12)
    assert details.slices(first, ["id"])["id"][0]["images"] == 1
    assert len(details.images(first)["lost"]) == 30


def test_settings_that_change_ap_are_named():
    assert details.incomparable(100) == []
    assert "best 300 detections" in details.incomparable(300)[0]


def test_replicates():
    class Scene:
        score = np.zeros(0)

    assert details.replicates(Scene) == 200
    Scene.score = np.zeros(10**6)
    assert details.replicates(Scene) == 50
