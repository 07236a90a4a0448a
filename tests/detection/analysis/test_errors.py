import contextlib
import io

import numpy as np
import pytest
from scenes import det, random_case, truth

from detection.analysis.errors import BKG, BOTH, CLS, CORRECT, DUPE, LOC, error_stack, tide_costs, tide_errors
from detection.analysis.matching import average_precision, match
from detection.analysis.scene import overlapping_pairs, scene_from_coco
from detection.data.coco import annotation_file, read_coco_file
from detection.evaluation.results_io import read_detections

A, B = [0, 0, 10, 10], [50, 50, 10, 10]
NAMES = {
    "Cls": "Cls",
    "Loc": "Loc",
    "Both": "Both",
    "Dupe": "Dupe",
    "Bkg": "Bkg",
    "Miss": "Miss",
    "FP": "FalsePos",
    "FN": "FalseNeg",
}


def analysed(ground_truth, detections):
    scene = scene_from_coco(ground_truth, detections)
    pairs = overlapping_pairs(scene)
    return scene, pairs, tide_errors(scene, pairs)


def test_one_of_each_kind():
    boxes = [
        det(1, 1, A, 0.9),  # correct
        det(1, 1, [0, 0, 10, 9], 0.8),  # a second one of the same object
        det(1, 1, B, 0.7),  # a dog called cat
        det(1, 1, [0, 7, 10, 10], 0.6),  # badly placed, IoU 3/17
        det(1, 1, [50, 57, 10, 10], 0.5),  # a dog called cat and badly placed
        det(1, 1, [80, 80, 10, 10], 0.4),  # on nothing
    ]
    scene, _, errors = analysed(truth((1, 1, A), (1, 2, B), (2, 1, A)), boxes)
    assert errors.kind.tolist() == [CORRECT, DUPE, CLS, LOC, BOTH, BKG]
    assert errors.fixed.tolist() == [False, False, True, False, False, False]  # the object of Loc is found
    assert errors.missed.tolist() == [False, False, True]  # the dog would be found if its class were right
    costs = tide_costs(scene, errors)
    assert costs.counts == {"Cls": 1, "Loc": 1, "Both": 1, "Dupe": 1, "Bkg": 1, "Miss": 1}
    # base: cats 1 of 2 found first (51 of 101 recalls), dogs none; Miss fixed: one cat to find; Cls fixed: all dogs found
    assert costs.base == pytest.approx(51 / 101 / 2)
    assert costs.kinds["Miss"] == pytest.approx((1 - 51 / 101) / 2)
    assert costs.kinds["Cls"] == pytest.approx(0.5)
    assert costs.per_class[0].tolist() == pytest.approx([0, 1])


def test_ignored_objects_cost_nothing():
    scene, _, errors = analysed(
        truth((1, 1, A), (1, 1, [40, 40, 50, 50], {"iscrowd": 1})), [det(1, 1, A, 0.9), det(1, 1, [50, 50, 9, 9], 0.95)]
    )
    assert errors.ignored.tolist() == [True, False]
    assert tide_costs(scene, errors).base == pytest.approx(1)


def test_without_objects_or_detections():
    scene, pairs, errors = analysed(truth(), [])
    assert tide_costs(scene, errors).base is None
    assert error_stack(scene, pairs)[1][:5].sum() == 0
    scene, _, errors = analysed(truth((1, 1, A)), [])
    assert tide_costs(scene, errors).kinds["Miss"] == 0  # nothing is left to find, and the class no longer counts
    scene, _, errors = analysed(truth(), [det(1, 1, A, 0.5)])
    assert errors.kind.tolist() == [BKG]


def test_the_stack_grows_and_begins_with_ap():
    scene, pairs, _ = analysed(*random_case(4))
    names, curves = error_stack(scene, pairs)
    assert names == ["C75", "C50", "Loc", "Oth", "BG", "FN"]
    area = curves.mean(axis=1)
    assert (np.diff(area) >= -1e-12).all()
    ap = average_precision(scene, match(scene, pairs))
    assert area[:2] == pytest.approx(np.nanmean(ap[[5, 0]], axis=1))
    assert area[-1] == 1


def tidecv(ground_truth, detections):
    from tidecv import TIDE, Data

    truth_data, results = Data("truth"), Data("results")
    for image in ground_truth["images"]:
        truth_data.add_image(image["id"], "")
    for c in ground_truth["categories"]:
        truth_data.add_class(c["id"], c["name"])
    for a in ground_truth["annotations"]:
        add = truth_data.add_ignore_region if a["iscrowd"] else truth_data.add_ground_truth
        add(a["image_id"], a["category_id"], a["bbox"])
    for d in detections:
        results.add_detection(d["image_id"], d["category_id"], d["score"], d["bbox"])
    tide = TIDE()
    with contextlib.redirect_stdout(io.StringIO()):
        run = tide.evaluate(truth_data, results, mode=TIDE.BOX)
    costs = {k.short_name: v for k, v in (run.fix_main_errors() | run.fix_special_errors()).items()}
    return run.ap, costs, {k.short_name: v for k, v in run.count_errors().items()}


def assert_equal(ground_truth, detections):
    base, expected, counts = tidecv(ground_truth, detections)
    scene, _, errors = analysed(ground_truth, detections)
    costs = tide_costs(scene, errors)
    assert 100 * costs.base == pytest.approx(base, abs=1e-9)
    for ours, theirs in NAMES.items():
        assert 100 * costs.kinds[ours] == pytest.approx(expected[theirs], abs=1e-9), ours
    assert costs.counts == counts


@pytest.mark.parametrize("seed", range(3))
def test_equals_tidecv(seed):
    pytest.importorskip("tidecv")
    ground_truth, detections = random_case(seed)
    rng = np.random.default_rng(seed)
    assert_equal(
        ground_truth, [{**d, "score": float(rng.random())} for d in detections]
    )  # its order of ties is another


@pytest.mark.data
def test_known_answers(shared):
    """tidecv's on YOLOX-Nano's detections (shared/data/README.md)."""
    ground_truth = read_coco_file(annotation_file(shared / "data/coco549", "val2017")).to_coco()
    file = shared / "data/evaluation/yolox_nano/coco549_val_detections.json"
    scene, _, errors = analysed(ground_truth, read_detections(file, ground_truth))
    costs = tide_costs(scene, errors)
    assert 100 * costs.base == pytest.approx(44.06, abs=0.005)
    known = {
        "Cls": 7.1806,
        "Loc": 7.0887,
        "Both": 1.1469,
        "Dupe": 0.3757,
        "Bkg": 2.2907,
        "Miss": 8.9063,
        "FP": 17.6723,
        "FN": 21.2983,
    }
    assert {k: 100 * v for k, v in costs.kinds.items()} == pytest.approx(known, abs=6e-5)
