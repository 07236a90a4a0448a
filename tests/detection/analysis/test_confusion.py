import hotcoco
import numpy as np
import pytest
from scenes import det, random_case, truth

from detection.analysis.confusion import confusion_matrix, match_any_class, top_confusions
from detection.analysis.scene import overlapping_pairs, scene_from_coco

A, B = [0, 0, 10, 10], [50, 50, 10, 10]


def analysed(ground_truth, detections):
    scene = scene_from_coco(ground_truth, detections)
    return scene, match_any_class(scene, overlapping_pairs(scene))


def test_hand_worked():
    boxes = [det(1, 1, A, 0.9), det(1, 1, B, 0.8), det(1, 2, [80, 80, 9, 9], 0.3), det(2, 1, [41, 41, 9, 9], 0.9)]
    scene, confusion = analysed(truth((1, 1, A), (1, 2, B), (2, 2, A), (2, 1, [40, 40, 50, 50], {"iscrowd": 1})), boxes)
    assert confusion_matrix(scene, confusion).tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert confusion_matrix(scene, confusion, 0.5).tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert confusion_matrix(scene, confusion, 0.85).tolist() == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]
    assert top_confusions(scene, confusion_matrix(scene, confusion)) == [("dog", "cat", 1)]


def test_a_match_does_not_depend_on_the_threshold():
    """Leaving out detections of a lower score gives the same matrix as leaving them out before matching."""
    ground_truth, detections = random_case(2)
    scene, confusion = analysed(ground_truth, detections)
    for threshold in (0.3, 0.5, 0.8):
        fewer, again = analysed(ground_truth, [d for d in detections if d["score"] >= threshold])
        assert (confusion_matrix(scene, confusion, threshold) == confusion_matrix(fewer, again)).all()


@pytest.mark.parametrize("seed", range(3))
def test_equals_hotcoco(seed):
    ground_truth, detections = random_case(seed)
    annotations = [a for a in ground_truth["annotations"] if not a["iscrowd"]]
    ground_truth = {**ground_truth, "annotations": annotations}
    rng = np.random.default_rng(seed)
    detections = [{**d, "score": float(rng.random())} for d in detections]
    coco_gt = hotcoco.COCO({**ground_truth, "images": [{**im, "file_name": ""} for im in ground_truth["images"]]})
    evaluation = hotcoco.COCOeval(coco_gt, coco_gt.load_res(detections), "bbox")
    theirs = np.asarray(evaluation.confusion_matrix(iou_thr=0.5, max_det=1000)["matrix"]).astype(int)
    assert (confusion_matrix(*analysed(ground_truth, detections)) == theirs).all()


def test_nothing_at_all():
    scene, confusion = analysed(truth(), [])
    assert confusion_matrix(scene, confusion).sum() == 0
