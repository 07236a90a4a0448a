import json

import pytest

from detection.cli import run

TRUTH = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "categories": [{"id": 4, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 4, "bbox": [0, 0, 50, 50]},
        {"id": 2, "image_id": 2, "category_id": 4, "bbox": [10, 10, 50, 50]},
    ],
}
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>50</ymax></bndbox>"


def row(image, *bbox, score=0.5):
    return {"image_id": image, "category_id": 4, "bbox": list(bbox), "score": score}


def go(folder, detections, *options, truth=TRUTH):
    """Metrics of detections against COCO annotations, or against the folder itself where there are none."""
    (folder / "detections.json").write_text(json.dumps(detections))
    (folder / "truth.json").write_text(json.dumps(truth))
    files = [folder / "detections.json", folder if truth is None else folder / "truth.json"]
    assert run("evaluate", [*map(str, files), "--output", str(folder / "out"), *options]) == 0
    return json.loads((folder / "out" / "metrics.json").read_text())


def test_the_ground_truth_itself_has_an_ap_of_one(tmp_path, capsys):
    metrics = go(tmp_path, [row(1, 0, 0, 50, 50), row(2, 10, 10, 50, 50)])
    assert metrics["AP"] == metrics["VOC_mAP"] == pytest.approx(1)
    assert "1.000" in capsys.readouterr().out
    assert (tmp_path / "out" / "per_class.csv").read_text().startswith("class")


def test_half_of_the_objects_is_half_of_the_recall(tmp_path):
    """Precision 1 up to recall 0.5: VOC's area is 0.5, its 11 points (0, 0.1, … 0.5) are 6 of 11; COCO's 51 of 101."""
    metrics = go(tmp_path, [row(1, 0, 0, 50, 50)])
    assert metrics["VOC_mAP"] == pytest.approx(0.5)
    assert metrics["VOC07_mAP"] == pytest.approx(6 / 11)
    assert metrics["AP"] == pytest.approx(51 / 101)


def test_further_ious_for_voc(tmp_path):
    """An IoU of 45/50 = 0.9."""
    metrics = go(tmp_path, [row(1, 0, 0, 50, 45), row(2, 10, 10, 50, 45)], "--voc-iou", "0.85", "0.95")
    assert (metrics["VOC_mAP"], metrics["VOC_mAP@0.85"], metrics["VOC_mAP@0.95"]) == (1, 1, 0)


def voc(folder):
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for name in ("a", "b"):
        objects = f"<object><name>cat</name>{BOX}</object>"
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("a\n")


def test_a_voc_folder_is_matched_by_names(tmp_path, caplog):
    voc(tmp_path)
    detections = [{"image_id": "a.jpg", "category_id": 1, "category_name": "cat", "bbox": [0, 0, 50, 50], "score": 1.0}]
    assert go(tmp_path, detections, truth=None)["VOC_mAP"] == pytest.approx(0.5)
    assert "1 of them without" in caplog.text
    assert go(tmp_path, detections, "--set", "val", truth=None)["VOC_mAP"] == pytest.approx(1)


@pytest.mark.parametrize("content", ["", "3", '{"images": []}', '[{"image_id": 1}]'])
def test_other_files_are_refused(tmp_path, capsys, content):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "detections.json").write_text(content)
    assert run("evaluate", [str(tmp_path / "detections.json"), str(tmp_path / "truth.json")]) == 2
    assert "detections.json" in capsys.readouterr().err


def test_missing_files_are_named(tmp_path, capsys):
    (tmp_path / "detections.json").write_text("[]")
    assert run("evaluate", [str(tmp_path / "detections.json"), str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    assert run("evaluate", [str(tmp_path / "detections.json"), str(tmp_path)]) == 2  # a folder without VOC
    assert "no VOC annotations" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.json", "per_class.csv"])
def test_earlier_results_are_moved(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    go(tmp_path, [row(1, 0, 0, 50, 50)])
    assert [path.name for path in (tmp_path / "out" / "earlier-1").iterdir()] == [name]
    assert (tmp_path / "out" / "earlier-1" / name).read_text() == "mine"
