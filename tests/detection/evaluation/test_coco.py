import contextlib
import copy
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.evaluation.coco import NAMES, coco_metrics, undefined_reasons


def random_case(seed, images=30, classes=4, string_ids=False):
    """Return random ground truth and detections: shifted, duplicate, missing and misclassified boxes, with many score ties."""
    rng = np.random.default_rng(seed)
    ground_truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3 * c, "name": f"c{c}"} for c in range(classes)],
    }
    detections = []
    for i in range(images):
        image = f"im{i:03d}" if string_ids else 17 * i
        ground_truth["images"].append({"id": image, "width": 500, "height": 500})
        for _ in range(rng.integers(0, 8)):
            x, y = rng.uniform(0, 300, 2)
            w, h = np.exp(rng.uniform(np.log(8), np.log(200), 2))
            c = int(3 * rng.integers(classes))
            ground_truth["annotations"].append(
                {
                    "id": len(ground_truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": c,
                    "bbox": [x, y, w, h],
                    "area": w * h * rng.uniform(0.5, 1),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, 0.1, 4) * [w, h, w, h]
                detections.append(
                    {
                        "image_id": image,
                        "category_id": c if rng.random() < 0.9 else 0,
                        "bbox": [x + shift[0], y + shift[1], max(w + shift[2], 1), max(h + shift[3], 1)],
                        "score": round(float(rng.random()), 1),
                    }
                )
    rng.shuffle(detections)
    return ground_truth, detections


def pycocotools(ground_truth, detections):
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(ground_truth)
        gt.createIndex()
        run = COCOeval(gt, gt.loadRes(copy.deepcopy(detections)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


def assert_equal(ground_truth, detections):
    """Hold hotcoco beside pycocotools called without any code of this project."""
    metrics, _ = coco_metrics(ground_truth, detections)
    ours = [-1 if metrics[n] is None else metrics[n] for n in NAMES]
    np.testing.assert_allclose(ours, pycocotools(ground_truth, detections), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_both_evaluators_give_the_same(seed):
    ground_truth, detections = random_case(seed)
    ours, reference = (
        coco_metrics(ground_truth, detections, 20, beside=[100], evaluator=name) for name in ("hotcoco", "pycocotools")
    )
    for values, others in zip(ours, reference, strict=True):
        assert values == pytest.approx(others, abs=1e-12, rel=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("string_ids", [False, True])
def test_equals_pycocotools(seed, string_ids):
    assert_equal(*random_case(seed, string_ids=string_ids))


side = st.integers(0, 12)
box = st.tuples(side, side, side, side).map(lambda b: [10.0 * v for v in b])


@st.composite
def cases(draw):
    """A few boxes on a coarse grid, so that overlaps, equal boxes, boxes without area and ties of scores are common."""
    huge = draw(st.sampled_from([1, 2**40 + 1, 0.5]))  # ids: small, huge, or not whole numbers
    images = [huge * i for i in range(1, draw(st.integers(1, 3)) + 1)]
    classes = [7 * k for k in range(1, draw(st.integers(1, 3)) + 1)]
    annotations = [
        {"id": i, "image_id": image, "category_id": label, "bbox": b, "area": b[2] * b[3] * shrink, "iscrowd": crowd}
        for i, (image, label, b, shrink, crowd) in enumerate(
            draw(
                st.lists(
                    st.tuples(
                        st.sampled_from(images),
                        st.sampled_from(classes),
                        box,
                        st.sampled_from([1.0, 0.4]),
                        st.integers(0, 1),
                    ),
                    max_size=12,
                )
            ),
            1,
        )
    ]
    detections = [
        {"image_id": image, "category_id": label, "bbox": b, "score": score}
        for image, label, b, score in draw(
            st.lists(
                st.tuples(
                    st.sampled_from(images), st.sampled_from(classes), box, st.sampled_from([0.1, 0.5, 0.50000001, 0.9])
                ),
                min_size=1,
                max_size=20,
            )
        )
    ]
    if draw(st.booleans()):  # more than 100 of a class in an image
        first = detections[0]
        detections += [{**first, "bbox": [k % 12, *first["bbox"][1:]], "score": k % 7 / 7} for k in range(120)]
    tables = {"images": [{"id": i} for i in images], "categories": [{"id": c, "name": f"c{c}"} for c in classes]}
    return {**tables, "annotations": annotations}, detections


@settings(max_examples=25, deadline=None)
@given(cases())
def test_equals_pycocotools_in_hard_cases(case):
    assert_equal(*case)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(cases())
def test_equals_pycocotools_in_many_hard_cases(case):
    assert_equal(*case)


def test_no_detections_gives_zero():
    ground_truth, _ = random_case(0)
    metrics, per_class = coco_metrics(ground_truth, [])
    assert all(v == 0 for v in metrics.values())
    assert all(v == 0 for v in per_class.values())


def test_no_ground_truth_of_a_size_is_none_with_a_reason():
    ground_truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0}],
    }
    metrics, per_class = coco_metrics(
        ground_truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.5}]
    )
    assert metrics["AP"] == pytest.approx(1, abs=1e-12)
    assert metrics["APs"] is metrics["ARl"] is None
    assert per_class == {"a": pytest.approx(1, abs=1e-12), "b": None}
    reasons = undefined_reasons(metrics)
    assert set(reasons) == {"APs", "APl", "ARs", "ARl"}
    assert "small" in reasons["APs"]


def test_no_ground_truth_at_all():
    ground_truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    for detections in ([], [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]):
        metrics, per_class = coco_metrics(ground_truth, detections)
        assert set(metrics.values()) == {None}
        assert per_class == {"a": None}


def test_detections_on_unknown_images_are_ignored():
    ground_truth, detections = random_case(1)
    extra = [{"image_id": 10**6, "category_id": 0, "bbox": [0, 0, 9, 9], "score": 1.0}]
    assert coco_metrics(ground_truth, detections + extra) == coco_metrics(ground_truth, detections)


REFERENCE = [
    0.504581,
    0.696973,
    0.572982,
    0.585626,
    0.519400,
    0.501398,
    0.386813,
    0.593680,
    0.595353,
    0.639811,
    0.566421,
    0.564291,
]
REFERENCE_NO_CROWD = [
    0.503647,
    0.696973,
    0.571667,
    0.593252,
    0.557991,
    0.489363,
    0.386813,
    0.593680,
    0.595353,
    0.654764,
    0.603130,
    0.553744,
]


@pytest.mark.data
def test_published_reference_values(shared):
    folder = shared / "data/evaluation/coco"
    ground_truth = json.loads((folder / "instances_val2014_100.json").read_text())
    detections = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    metrics, _ = coco_metrics(ground_truth, detections)
    np.testing.assert_allclose([metrics[n] for n in NAMES], REFERENCE, atol=1e-6)
    ground_truth = json.loads((folder / "no_crowd/gts/sampled_gts_bbox_area.json").read_text())
    detections = json.loads((folder / "no_crowd/dets/sampled_bbox_results.json").read_text())["annotations"]
    metrics, _ = coco_metrics(ground_truth, detections)
    np.testing.assert_allclose([metrics[n] for n in NAMES], REFERENCE_NO_CROWD, atol=1e-6)


def test_more_detections_are_counted_where_asked():
    """Against pycocotools with other limits; an image of 150 objects of one class, of which most are found."""
    ground_truth, detections = random_case(3)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (150, 2))
    for x, y in corners.tolist():
        box = {"image_id": 0, "category_id": 3, "bbox": [x, y, 40, 40]}
        ground_truth["annotations"].append(
            {**box, "id": len(ground_truth["annotations"]) + 1, "area": 1600, "iscrowd": 0}
        )
        detections.append({**box, "bbox": [x + rng.normal(), y, 40, 40], "score": float(rng.random())})
    metrics, _ = coco_metrics(ground_truth, detections, 1000, beside=[100])
    assert metrics["AR1000"] > metrics["AR100"] + 0.02
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(ground_truth)
        gt.createIndex()
        run = COCOeval(gt, gt.loadRes(copy.deepcopy(detections)), "bbox")
        run.params.maxDets = [1, 10, 100, 1000]
        run.evaluate()
        run.accumulate()
    precision, recall = run.eval["precision"], run.eval["recall"]
    expected = {
        "AP": precision[..., 0, 3],
        "AP@100": precision[..., 0, 2],
        "AP50": precision[0][..., 0, 3],
        "AP75@100": precision[5][..., 0, 2],
        "APm": precision[..., 2, 3],
        "AR1": recall[..., 0, 0],
        "AR10": recall[..., 0, 1],
        "AR100": recall[..., 0, 2],
        "AR1000": recall[..., 0, 3],
        "ARm@100": recall[..., 2, 2],
    }
    for name, values in expected.items():
        assert metrics[name] == pytest.approx(values[values > -1].mean(), abs=1e-9), name
    assert len(metrics) == 12 + 10
