import numpy as np
import pytest
from scenes import det, random_case, truth

from detection.analysis.curves import class_curves, curve, overall_curve, precision_at_recalls
from detection.analysis.matching import average_precision, match
from detection.analysis.scene import overlapping_pairs, scene_from_coco

A, B = [0, 0, 10, 10], [50, 50, 10, 10]


def test_hand_worked():
    c = curve(np.array([0.9, 0.5, 0.7, 0.7]), np.array([1, 1, 0, 1], bool), np.array([0, 0, 1, 0], bool), 4)
    assert c.threshold.tolist() == [0.9, 0.7, 0.5]  # both of 0.7 are in or out together
    assert c.true.tolist() == [1, 2, 3]
    assert c.false.tolist() == [0, 1, 1]
    assert c.precision.tolist() == pytest.approx([1, 2 / 3, 3 / 4])
    assert c.recall.tolist() == [0.25, 0.5, 0.75]
    assert c.best_f1() == (pytest.approx(0.75), 0.5)
    assert c.for_precision(0.7) == 0.5
    assert c.for_precision(0.9) == 0.9
    assert c.for_recall(0.5) == 0.7
    assert c.for_recall(0.9) is None


def test_undefined():
    nothing = np.zeros(0, bool)
    c = curve(np.zeros(0), nothing, nothing, 3)
    assert c.best_f1() is c.for_precision(0) is c.for_recall(0) is None
    c = curve(np.array([0.5]), np.array([False]), np.array([True]), 0)
    assert c.best_f1() is c.for_recall(0) is None


def test_classes_add_up():
    scene = scene_from_coco(*random_case(1))
    matches = match(scene, overlapping_pairs(scene))
    whole, parts = overall_curve(scene, matches), class_curves(scene, matches)
    assert whole.true[-1] == sum(p.true[-1] for p in parts if len(p.true)) == matches.true_positive[0].sum()
    assert whole.objects == sum(p.objects for p in parts) == scene.counted.sum()


def test_curves_average_to_ap():
    scene = scene_from_coco(*random_case(1))
    matches = match(scene, overlapping_pairs(scene))
    precision, score = precision_at_recalls(scene, matches)
    assert precision.mean(axis=1) == pytest.approx(average_precision(scene, matches)[0], abs=1e-12)
    assert (np.isnan(score) == (precision == 0)).all()


def test_scores_at_recalls():
    scene = scene_from_coco(truth((1, 1, A), (1, 1, B)), [det(1, 1, A, 0.9), det(1, 1, B, 0.3)])
    _, score = precision_at_recalls(scene, match(scene, overlapping_pairs(scene)))
    assert score[0, [0, 50, 51, 100]].tolist() == [0.9, 0.9, 0.3, 0.3]
