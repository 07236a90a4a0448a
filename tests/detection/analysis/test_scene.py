import numpy as np
import pytest
from pycocotools import mask
from scenes import det, truth

from detection.analysis.scene import overlapping_pairs, position_in_group, scene_from_coco


def test_order_and_limit():
    boxes = [
        det(2, 1, [0, 0, 9, 9], 0.2),
        det(1, 2, [0, 0, 5, 5], 0.5),
        det(2, 1, [1, 0, 9, 9], 0.9),
        det(2, 2, [2, 0, 9, 9], 0.2),
    ]
    scene = scene_from_coco(
        truth((2, 1, [0, 0, 9, 9]), (1, 2, [0, 0, 4, 4])),
        [*boxes, det(7, 1, [0, 0, 1, 1], 1), det(1, 9, [0, 0, 1, 1], 1)],
    )
    assert scene.image.tolist() == [0, 1, 1, 1]
    assert scene.score.tolist() == [0.5, 0.9, 0.2, 0.2]
    assert scene.label.tolist() == [1, 0, 0, 1]  # of equal scores the first given
    assert scene.object_image.tolist() == [0, 1]
    assert scene.object_id == [2, 1]
    limited = scene_from_coco(truth((2, 1, [0, 0, 9, 9])), boxes, max_detections=1)
    assert limited.dropped == 1
    assert limited.score.tolist() == [0.5, 0.9, 0.2]


def test_no_objects_and_no_detections():
    scene = scene_from_coco(truth(), [])
    assert scene.object_count.tolist() == [0, 0]
    assert len(overlapping_pairs(scene).iou) == 0
    scene = scene_from_coco(truth(), [det(1, 1, [0, 0, 5, 5], 0.5)])
    assert len(overlapping_pairs(scene).iou) == 0


def test_pairs_equal_pycocotools():
    rng = np.random.default_rng(0)
    objects = [(1, 1, [*rng.uniform(0, 50, 2), *rng.uniform(1, 50, 2)], {"iscrowd": k % 2}) for k in range(9)]
    detections = [det(1, 2, [*rng.uniform(0, 50, 2), *rng.uniform(1, 50, 2)], float(rng.random())) for _ in range(20)]
    scene = scene_from_coco(truth(*objects), detections)
    pairs = overlapping_pairs(scene)
    xywh = [np.array([*b[:2], *(b[2:] - b[:2])]) for b in scene.box]
    expected = mask.iou(np.array(xywh), np.array([o[2] for o in objects]), [k % 2 for k in range(9)])
    ours = np.zeros_like(expected)
    ours[pairs.detection, pairs.object] = pairs.iou
    assert ours == pytest.approx(expected, abs=1e-12)
    plain = mask.iou(np.array(xywh), np.array([o[2] for o in objects]), [0] * 9)
    ours[pairs.detection, pairs.object] = pairs.plain_iou
    assert ours == pytest.approx(plain, abs=1e-12)


def test_position_in_group():
    assert position_in_group(np.array([5, 5, 2, 5, 5, 5])).tolist() == [0, 1, 0, 0, 1, 2]
    assert len(position_in_group(np.zeros(0, dtype=np.int64))) == 0
