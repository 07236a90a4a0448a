import pytest
from scenes import det, random_case, truth

from detection.evaluation.report import evaluate
from detection.report import numbers
from detection.report.analysis import analyse

A, B = [0, 0, 10, 10], [50, 50, 10, 10]


def test_counts():
    analysis = analyse(truth((1, 1, A), (1, 1, B, {"iscrowd": 1})), [det(1, 1, A, 0.9)])
    wanted = {"images": 2, "images_without_objects": 1, "objects": 1, "ignored_objects": 1, "detections": 1}
    assert wanted.items() <= numbers.counts(analysis).items()


def test_a_class_at_its_best_threshold():
    case = truth((1, 1, A), (2, 1, A)), [det(1, 1, A, 0.9), det(1, 1, B, 0.4)]
    row, other = numbers.classes(analyse(*case), evaluate(*case))
    wanted = {"class": "cat", "objects": 2, "detections": 2, "TP": 1, "FP": 0, "FN": 1, "threshold": 0.9}
    assert wanted.items() <= row.items()
    assert row["AR"] == pytest.approx(0.5)
    assert row["AP50"] == pytest.approx(51 / 101)
    assert other["AP"] is other["threshold"] is None


def test_sections_of_a_random_case():
    case = random_case(0)
    analysis, report = analyse(*case), evaluate(*case)
    metrics = numbers.metrics(report, {"AP": (0.1, 0.2)})
    assert metrics[0] == {"name": "AP", "value": report.metrics["AP"], "low": 0.1, "high": 0.2, "reason": None}
    assert numbers.thresholds(analysis)["best_F1"]["threshold"] == analysis.threshold
    assert len(numbers.curves(analysis)["precision"]) == 4
    assert numbers.confusion(analysis)["threshold"] == analysis.threshold
    errors = numbers.errors(analysis)
    assert set(errors["cost"]) == {"Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN"}
    assert errors["stack"]["FN"] == 1
    assert numbers.evaluator("hotcoco").startswith("hotcoco 1.")
