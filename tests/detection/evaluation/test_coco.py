import contextlib
import copy
import io
import json
import multiprocessing
import os

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import cases, random_case

from detection.evaluation.coco import NAMES, coco_metrics, undefined_reasons


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


def in_a_fork(ground_truth, detections, connection):
    connection.send(coco_metrics(ground_truth, detections))
    connection.close()
    os._exit(0)


def test_a_forked_process_has_no_threads_to_wait_for():
    """hotcoco's threads stay in the process that it first ran in; pycocotools then gives the same numbers."""
    ground_truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}],
    }
    detections = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 8], "score": 0.5}]
    here = coco_metrics(ground_truth, detections)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=in_a_fork, args=(ground_truth, detections, theirs))
    process.start()
    assert ours.poll(30), "it hangs"
    assert ours.recv() == here
    process.join(10)
