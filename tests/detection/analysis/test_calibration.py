import hotcoco
import numpy as np
import pytest
from scenes import det, random_case, truth

from detection.analysis.calibration import calibration, score_histogram
from detection.analysis.matching import match
from detection.analysis.scene import overlapping_pairs, scene_from_coco

A, B = [0, 0, 10, 10], [50, 50, 10, 10]


def analysed(ground_truth, detections):
    scene = scene_from_coco(ground_truth, detections)
    return scene, match(scene, overlapping_pairs(scene))


def test_hand_worked():
    scene, matches = analysed(truth((1, 1, A)), [det(1, 1, A, 0.95), det(1, 1, B, 0.85), det(2, 2, B, 1.0)])
    c = calibration(scene, matches)
    assert c.count.tolist() == [0] * 8 + [1, 2]
    assert c.score[8:].tolist() == pytest.approx([0.85, 0.975])
    assert c.precision[8:].tolist() == [0, 0.5]
    assert c.ece == pytest.approx((0.85 + 2 * 0.475) / 3)
    assert c.worst == pytest.approx(0.85)
    assert calibration(scene, matches, label=1).ece == pytest.approx(1.0)
    true, false = score_histogram(scene, matches)
    assert (true.sum(), false.sum()) == (1, 2)
    assert true[19] == 1


def test_equals_hotcoco():
    ground_truth, detections = random_case(3)
    evaluation = hotcoco.COCO({**ground_truth, "images": [{**im, "file_name": ""} for im in ground_truth["images"]]})
    evaluation = hotcoco.COCOeval(evaluation, evaluation.load_res(detections), "bbox")
    evaluation.evaluate()
    theirs = evaluation.calibration(n_bins=10, iou_threshold=0.5)
    ours = calibration(*analysed(ground_truth, detections))
    assert ours.count.sum() == theirs["num_detections"]
    assert ours.ece == pytest.approx(theirs["ece"], abs=1e-9)


def test_no_detections():
    c = calibration(*analysed(truth((1, 1, A)), []))
    assert c.ece is c.worst is None
    assert np.isnan(c.score).all()
