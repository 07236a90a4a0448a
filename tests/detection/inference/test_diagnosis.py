import numpy as np
import pytest
import tiny
import torch

from detection.config import DataConfig
from detection.data.loader import EvalSet, eval_loader
from detection.evaluation.coco import coco_metrics
from detection.inference.diagnosis import NUMBERS, diagnose, summarise
from detection.inference.over_dataset import detect

DATA = DataConfig(short_side=(48,), max_side=64, workers=0)


@pytest.fixture(scope="module")
def case():
    records = tiny.records(5)
    model = tiny.detector(score_threshold=0.2)
    loader = eval_loader(EvalSet(records, tiny.pixels, DATA), rank=0, world=1, pin=False)
    ticks = []
    result = diagnose(model, loader, records, torch.device("cpu"), tick=lambda: ticks.append(1))
    return records, model, loader, result, ticks


def test_the_stages_add_up_to_the_misses(case):
    records, _, _, result, ticks = case
    assert len(ticks) == result["images"] == 5
    assert result["objects"] == len(records.labels) == 10
    assert sum(result["stages"].values()) == result["missed"] == len(result["lost"])
    assert sum(size["missed"] for size in result["by_size"].values()) == result["missed"]
    assert set(result["seconds"]) == {"trunk", "RPN", "head"}


def test_found_objects_are_those_of_the_detectors_own_detections(case):
    """At the NMS in use AP is what evaluation gives, and misses are COCO's at IoU 0.5."""
    records, model, loader, result, _ = case
    rows = detect(model, loader, records, torch.device("cpu"))
    metrics, _ = coco_metrics(records.to_coco(), rows)
    used = next(row for row in result["nms"] if row["used"])
    assert used["AP"] == pytest.approx(metrics["AP"], abs=1e-9)
    assert used["AP50"] == pytest.approx(metrics["AP50"], abs=1e-9)


def test_recall_grows_with_the_number_of_proposals(case):
    *_, result, _ = case
    curves = np.array([result["proposals"][str(n)] for n in NUMBERS])
    assert (np.diff(curves, axis=0) >= 0).all()
    assert (np.diff(curves, axis=1) <= 0).all()
    assert (np.diff(result["anchors"]) <= 0).all()


def test_a_perfect_head_misses_nothing(case, monkeypatch):
    """Proposals on the objects and their classes: nothing is missed; without proposals everything is lost there."""
    records, model, loader, _, _ = case
    truth = [torch.tensor(records.boxes[records.objects(i)], dtype=torch.float32) for i in range(5)]
    labels = [torch.tensor(records.labels[records.objects(i)]) for i in range(5)]
    state = {"image": 0}

    def proposals(output, sizes, padded=None):
        first = state["image"]
        state["image"] += len(sizes)
        return truth[first : first + len(sizes)]

    def predictions(features, boxes, sizes, padded=None):
        first = state["image"] - len(boxes)
        scores = [torch.nn.functional.one_hot(labels[first + k], 3).float() for k in range(len(boxes))]
        return scores, [torch.zeros(len(b), 2, 4) for b in boxes]

    monkeypatch.setattr(model.rpn, "proposals", proposals)
    monkeypatch.setattr(model.roi_head, "predictions", predictions)
    monkeypatch.setattr(model.roi_head, "nms_iou", 0.99)
    assert diagnose(model, loader, records, torch.device("cpu"))["missed"] == 0
    state["image"] = 0
    monkeypatch.setattr(model.rpn, "proposals", lambda output, sizes, padded=None: [torch.zeros(0, 4) for _ in sizes])
    monkeypatch.setattr(
        model.roi_head,
        "predictions",
        lambda f, boxes, sizes, padded=None: (
            [torch.zeros(0, 3) for _ in boxes],
            [torch.zeros(0, 2, 4) for _ in boxes],
        ),
    )
    result = diagnose(model, loader, records, torch.device("cpu"))
    assert result["stages"]["no proposal"] + result["stages"]["no anchor"] == result["missed"] == 10


def test_no_images():
    assert summarise([])["missed"] == 0
