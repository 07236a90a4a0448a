import csv
import json

import pytest

from detection.evaluation.report import evaluate, table, write_report

GROUND_TRUTH = {
    "images": [{"id": 1}],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0}],
}
DETECTIONS = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 45], "score": 0.5}]


def test_metrics_json_has_all_metrics_and_no_minus_one(tmp_path):
    report = evaluate(GROUND_TRUTH, DETECTIONS, voc_ious=[0.95])
    write_report(report, tmp_path)
    tree = json.loads((tmp_path / "metrics.json").read_text())
    expected = {
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR1",
        "AR10",
        "AR100",
        "ARs",
        "ARm",
        "ARl",
        "VOC07_mAP",
        "VOC_mAP",
        "per_class",
    }
    assert expected <= set(tree)
    assert tree["APs"] is None
    assert tree["VOC_mAP"] == 1
    assert tree["VOC_mAP@0.95"] == 0
    assert tree["per_class"]["b"] == {
        "AP": None,
        "VOC07_AP": None,
        "VOC_AP": None,
        "VOC07_AP@0.95": None,
        "VOC_AP@0.95": None,
    }
    assert "small" in tree["undefined"]["APs"]
    assert "-1" not in (tmp_path / "metrics.json").read_text()
    rows = list(csv.DictReader((tmp_path / "per_class.csv").open(encoding="utf-8")))
    assert [r["class"] for r in rows] == ["a", "b"]
    assert rows[1]["AP"] == ""


def test_table_has_three_decimals_and_reasons():
    text = table(evaluate(GROUND_TRUTH, DETECTIONS))
    assert "0.900" not in text.split("AP50")[0].split("AP ")[0]
    assert "│ AP50      │ 1.000 │" in text
    assert "no ground truth of size small" in text
    assert "-1" not in text


ODD = ["猫", "née", "[/b]", "[red]a", ":dog:", "a,b", 'c"d', "line\nbreak", "\ud800", ""]


def test_classes_of_any_name_are_written_and_tabulated(tmp_path):
    truth = {**GROUND_TRUTH, "categories": [{"id": i, "name": name} for i, name in enumerate(ODD, 1)]}
    report = evaluate(truth, DETECTIONS)
    write_report(report, tmp_path)
    assert list(json.loads((tmp_path / "metrics.json").read_text())["per_class"]) == ODD
    with (tmp_path / "per_class.csv").open(encoding="utf-8", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [*ODD[:-2], "\\ud800", ""]
    text = table(report)
    assert all(name in text for name in ("猫", "née", "[/b]", "[red]a", ":dog:", "a,b"))


def test_results_are_whole_or_as_they_were(tmp_path, monkeypatch):
    report = evaluate(GROUND_TRUTH, DETECTIONS)
    write_report(report, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(evaluate(GROUND_TRUTH, []), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
