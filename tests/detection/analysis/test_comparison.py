import numpy as np
import pytest
from scenes import det, random_case, truth

from detection.analysis.comparison import compare, image_f1
from detection.analysis.matching import match
from detection.analysis.scene import overlapping_pairs, scene_from_coco
from detection.evaluation.coco import coco_metrics

A, B = [0, 0, 10, 10], [50, 50, 10, 10]


def analysed(ground_truth, detections):
    scene = scene_from_coco(ground_truth, detections)
    return scene, match(scene, overlapping_pairs(scene))


def test_equal_detectors_do_not_differ():
    case = analysed(*random_case(1))
    differences, per_class = compare(case, case, replicates=20)
    assert all((d.value, d.low, d.high, d.share) == (0, 0, 0, 0) for d in differences.values())
    assert np.nanmax(np.abs(per_class)) == 0


def test_differences_are_of_cocos_numbers():
    ground_truth, detections = random_case(1)
    worse = [d for i, d in enumerate(detections) if i % 3]
    differences, _ = compare(analysed(ground_truth, worse), analysed(ground_truth, detections), replicates=40)
    a, b = (coco_metrics(ground_truth, d)[0] for d in (worse, detections))
    for name, d in differences.items():
        assert d.value == pytest.approx(b[name] - a[name], abs=1e-12)
        assert d.low <= d.value <= d.high
    assert differences["AP50"].low > 0
    assert differences["AP50"].share == 1


def test_other_images_and_classes_are_refused():
    one, other = analysed(truth((1, 1, A)), []), analysed(truth((1, 1, A), images=3), [])
    with pytest.raises(ValueError, match="other images: 2 and 3"):
        compare(one, other)
    with pytest.raises(ValueError, match="other classes: cat, dog and cat, cow"):
        compare(one, analysed(truth((1, 1, A), names=("cat", "cow")), []))


def test_f1_of_images():
    boxes = [det(1, 1, A, 0.9), det(1, 1, B, 0.2), det(2, 1, B, 0.9)]
    scene, matches = analysed(truth((1, 1, A), (1, 1, [80, 80, 9, 9]), (2, 1, A), images=3), boxes)
    assert image_f1(scene, matches, 0.5).tolist() == pytest.approx([2 / 3, 0, 1])
    assert image_f1(scene, matches, 0.1).tolist() == pytest.approx([1 / 2, 0, 1])
