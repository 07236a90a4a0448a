import numpy as np
import pytest

from detection.evaluation.voc import area_under_curve, eleven_point, voc_ap


def make_ground_truth(*objects, names=("cat",)):
    """Return ground truth of (image, box, difficult) objects."""
    images = sorted({o[0] for o in objects} | {"empty"})
    return {
        "images": [{"id": i} for i in images],
        "categories": [{"id": c, "name": n} for c, n in enumerate(names, 1)],
        "annotations": [
            {"id": k, "image_id": i, "category_id": 1, "bbox": b, "difficult": d}
            for k, (i, b, d) in enumerate(objects, 1)
        ],
    }


def det(image, box, score):
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score}


A, B, FAR = [0, 0, 10, 10], [20, 0, 10, 10], [50, 50, 10, 10]


def test_hand_computed_case():
    # TP, FP, TP, over three objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3
    detections = [det("1", A, 0.9), det("1", FAR, 0.8), det("2", A, 0.7)]
    ap = voc_ap(make_ground_truth(("1", A, 0), ("1", B, 0), ("2", A, 0)), detections)["cat"]
    assert ap[1] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert ap[0] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # recalls 0 to 0.3, and 0.4 to 0.6


def test_each_object_is_matched_once_by_highest_iou():
    # the second detection overlaps A, already matched, more than the unmatched object next to it: a false positive in VOC,
    # where COCO would match it to the other object
    near = [3, 0, 10, 10]
    detections = [det("1", A, 0.9), det("1", [1, 0, 10, 10], 0.8)]
    ap = voc_ap(make_ground_truth(("1", A, 0), ("1", near, 0)), detections, iou=0.5)["cat"]
    assert ap[1] == pytest.approx(0.5)


def test_difficult_objects_are_ignored():
    objects = (("1", A, 0), ("1", B, 1))
    assert voc_ap(make_ground_truth(*objects), [det("1", A, 0.5), det("1", B, 0.9), det("1", B, 0.8)])["cat"] == (
        1.0,
        1.0,
    )
    assert voc_ap(make_ground_truth(("1", B, 1)), [det("1", B, 0.9)])["cat"] == (None, None)


def test_no_detections_and_no_ground_truth():
    assert voc_ap(make_ground_truth(("1", A, 0)), [])["cat"] == (0.0, 0.0)
    assert voc_ap(make_ground_truth(("1", A, 0)), [det("empty", A, 0.5)])["cat"] == (0.0, 0.0)
    result = voc_ap(make_ground_truth(("1", A, 0), names=("cat", "dog")), [])
    assert result["dog"] == (None, None)


def test_iou_threshold_is_inclusive():
    half = [0, 0, 10, 5]  # IoU exactly 0.5
    assert voc_ap(make_ground_truth(("1", A, 0)), [det("1", half, 0.5)], iou=0.5)["cat"] == (1.0, 1.0)
    assert voc_ap(make_ground_truth(("1", A, 0)), [det("1", half, 0.5)], iou=0.501)["cat"] == (0.0, 0.0)


def test_curves():
    recall, precision = np.array([0.25, 0.5, 0.5, 0.75]), np.array([1.0, 0.5, 0.4, 0.6])
    assert area_under_curve(recall, precision) == pytest.approx(0.25 + 0.25 * 0.6 + 0.25 * 0.6)
    assert eleven_point(recall, precision) == pytest.approx((3 * 1 + 5 * 0.6) / 11)
    assert area_under_curve(np.zeros(0), np.zeros(0)) == eleven_point(np.zeros(0), np.zeros(0)) == 0


def read_case(folder):
    """Read boxes x y w h with inclusive corners, which add a pixel to width and height."""
    tree, detections = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}, []
    for path in sorted((folder / "gts").glob("*.txt")):
        tree["images"].append({"id": path.stem})
        for line in path.read_text().splitlines():
            x, y, w, h = map(float, line.split()[1:])
            tree["annotations"].append(
                {
                    "id": len(tree["annotations"]) + 1,
                    "image_id": path.stem,
                    "category_id": 1,
                    "bbox": [x, y, w + 1, h + 1],
                }
            )
        for line in (folder / "dets" / path.name).read_text().splitlines():
            score, x, y, w, h = map(float, line.split()[1:])
            detections.append(det(path.stem, [x, y, w + 1, h + 1], score))
    return tree, detections


@pytest.mark.data
@pytest.mark.parametrize(
    ("iou", "eleven", "area"),
    [
        (0.1, 0.3333333333, 0.3371980676),
        (0.3, 0.2683982683, 0.2456866804),
        (0.5, 0.0303030303, 0.0222222222),
        (0.75, 0, 0),
    ],
)
def test_published_reference_values(shared, iou, eleven, area):
    tree, detections = read_case(shared / "data/evaluation/voc/case_1")
    assert voc_ap(tree, detections, iou)["object"] == pytest.approx((eleven, area), abs=1e-6)
