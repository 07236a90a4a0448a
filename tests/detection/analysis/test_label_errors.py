from scenes import det, truth

from detection.analysis.label_errors import suspicions
from detection.analysis.matching import match
from detection.analysis.scene import overlapping_pairs, scene_from_coco

A, B, C, FAR = [0, 0, 10, 10], [30, 0, 10, 10], [60, 0, 10, 10], [80, 80, 10, 10]


def found(ground_truth, detections, **options):
    scene = scene_from_coco(ground_truth, detections)
    pairs = overlapping_pairs(scene)
    return [(s.kind, s.score, s.object) for s in suspicions(scene, pairs, match(scene, pairs), **options)]


def test_one_of_each():
    boxes = [
        det(1, 1, FAR, 0.9),  # an object that nobody annotated
        det(1, 1, [81, 80, 10, 10], 0.85),  # the same again
        det(1, 1, B, 0.8),  # annotated as a dog
        det(1, 1, [60, 6, 10, 10], 0.7),  # annotated elsewhere, IoU 0.25
        det(1, 1, A, 0.95),  # right
        det(1, 2, A, 0.6),  # a dog where a cat was found: the detector's error
        det(1, 1, [30, 40, 9, 9], 0.4),  # not sure enough
    ]
    ground_truth = truth((1, 1, A), (1, 2, B), (1, 1, C))
    assert found(ground_truth, boxes) == [("missing", 0.9, -1), ("wrong class", 0.8, 1), ("badly placed", 0.7, 2)]
    assert len(found(ground_truth, boxes, threshold=0.3)) == 4
    assert len(found(ground_truth, boxes, most=2)) == 1  # of the two with the highest scores


def test_crowds_are_not_doubted():
    assert found(truth((1, 1, [0, 0, 50, 50], {"iscrowd": 1})), [det(1, 2, [10, 10, 9, 9], 0.9)]) == []


def test_nothing():
    assert found(truth((1, 1, A)), []) == []
    assert found(truth(), [det(1, 1, A, 0.9), det(2, 1, A, 0.9)]) == [("missing", 0.9, -1), ("missing", 0.9, -1)]
