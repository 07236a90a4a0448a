import numpy as np
import pytest

from detection.evaluation.voc import area_under, eleven_point, voc_ap


def truth(*objects, names=("cat",)):
    """Objects as (image, box, difficult)."""
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


def test_by_hand():
    # hit, miss, hit, over three objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3
    found = [det("1", A, 0.9), det("1", FAR, 0.8), det("2", A, 0.7)]
    ap = voc_ap(truth(("1", A, 0), ("1", B, 0), ("2", A, 0)), found)["cat"]
    assert ap[1] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert ap[0] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # recalls 0 to 0.3, and 0.4 to 0.6


def test_an_object_is_found_once_and_by_its_best_match():
    # the second detection overlaps A more than the free object beside it, and A is taken: VOC calls it wrong where COCO
    # would give it the other
    near = [3, 0, 10, 10]
    found = [det("1", A, 0.9), det("1", [1, 0, 10, 10], 0.8)]
    ap = voc_ap(truth(("1", A, 0), ("1", near, 0)), found, iou=0.5)["cat"]
    assert ap[1] == pytest.approx(0.5)


def test_difficult_objects_count_neither_way():
    objects = (("1", A, 0), ("1", B, 1))
    assert voc_ap(truth(*objects), [det("1", A, 0.5), det("1", B, 0.9), det("1", B, 0.8)])["cat"] == (1.0, 1.0)
    assert voc_ap(truth(("1", B, 1)), [det("1", B, 0.9)])["cat"] == (None, None)


def test_nothing_found_and_nothing_there():
    assert voc_ap(truth(("1", A, 0)), [])["cat"] == (0.0, 0.0)
    assert voc_ap(truth(("1", A, 0)), [det("empty", A, 0.5)])["cat"] == (0.0, 0.0)
    result = voc_ap(truth(("1", A, 0), names=("cat", "dog")), [])
    assert result["dog"] == (None, None)


def test_the_overlap_needed_is_reached_by_equality():
    half = [0, 0, 10, 5]  # IoU exactly 0.5
    assert voc_ap(truth(("1", A, 0)), [det("1", half, 0.5)], iou=0.5)["cat"] == (1.0, 1.0)
    assert voc_ap(truth(("1", A, 0)), [det("1", half, 0.5)], iou=0.501)["cat"] == (0.0, 0.0)


def test_curves():
    recall, precision = np.array([0.25, 0.5, 0.5, 0.75]), np.array([1.0, 0.5, 0.4, 0.6])
    assert area_under(recall, precision) == pytest.approx(0.25 + 0.25 * 0.6 + 0.25 * 0.6)
    assert eleven_point(recall, precision) == pytest.approx((3 * 1 + 5 * 0.6) / 11)
    assert area_under(np.zeros(0), np.zeros(0)) == eleven_point(np.zeros(0), np.zeros(0)) == 0


def read_case(folder):
    """x y w h with VOC's inclusive corners: a pixel more in either direction."""
    tree, found = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}, []
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
            found.append(det(path.stem, [x, y, w + 1, h + 1], score))
    return tree, found


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
def test_answers_known_from_elsewhere(shared, iou, eleven, area):
    tree, found = read_case(shared / "data/evaluation/voc/case_1")
    assert voc_ap(tree, found, iou)["object"] == pytest.approx((eleven, area), abs=1e-6)
