import json

import pytest

from detection.commands.evaluate import main
from detection.evaluation.results_io import read_detections, read_ground_truth

GROUND_TRUTH = {
    "images": [{"id": 5, "file_name": "x/a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "categories": [{"id": 0, "name": "cat"}, {"id": 4, "name": "dog"}],
    "annotations": [
        {"id": 0, "image_id": 5, "category_id": 0, "bbox": [0, 0, 20, 20]},
        {"id": 1, "image_id": 9, "category_id": 4, "bbox": [5, 5, 20, 20]},
    ],
}
DETECTIONS = [
    {"image_id": 5, "category_id": 0, "bbox": [0, 0, 20, 20], "score": 0.9},
    {"image_id": 9, "category_id": 4, "bbox": [5, 5, 20, 20], "score": 0.8},
]


def write(path, tree):
    path.write_text(json.dumps(tree))
    return str(path)


def voc(root):
    (root / "Annotations").mkdir(parents=True)
    for name, cls, box in (("a", "cat", (1, 1, 20, 20)), ("b", "dog", (6, 6, 25, 25))):
        corners = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><object><name>{cls}</name><bndbox>{corners}</bndbox></object></annotation>"
        )
    return str(root)


def test_list_against_coco(tmp_path, capsys):
    assert (
        main(
            [
                write(tmp_path / "d.json", DETECTIONS),
                write(tmp_path / "t.json", GROUND_TRUTH),
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "out/metrics.json").read_text())["AP"] == 1
    assert "AP50" in capsys.readouterr().out


def test_dictionary_with_other_ids(tmp_path):
    results = {
        "images": [{"id": 0, "file_name": "b.png"}, {"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9},
            {"image_id": 0, "category_id": 0, "bbox": [5, 5, 20, 20], "score": 0.8},
        ],
    }
    path = write(tmp_path / "d.json", results)
    ground_truth = read_ground_truth(write_path(tmp_path, GROUND_TRUTH))
    detections = read_detections(tmp_path / "d.json", ground_truth, by_name=False)
    assert [(d["image_id"], d["category_id"]) for d in detections] == [(5, 0), (9, 4)]
    assert main([path, voc(tmp_path / "VOC"), "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["VOC07_mAP"] == 1


def write_path(tmp_path, tree):
    write(tmp_path / "truth.json", tree)
    return tmp_path / "truth.json"


@pytest.mark.parametrize("name", ["a", "a.jpg", "images/a.jpeg"])
def test_list_against_voc_by_name(tmp_path, name):
    detections = [
        {"image_id": name, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9},
        {"image_id": "b", "category_id": 77, "category_name": "dog", "bbox": [5, 5, 20, 20], "score": 0.9},
    ]
    assert (
        main(
            [
                write(tmp_path / "d.json", detections),
                voc(tmp_path / "VOC"),
                "--output",
                str(tmp_path),
                "--voc-iou",
                "0.7",
                "0.9",
            ]
        )
        == 0
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["VOC_mAP"] == metrics["VOC_mAP@0.9"] == metrics["AP"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[0].pop("score"), "detection 0 has no 'score'"),
        (lambda d: d[1].update(bbox=[1, 2]), "detection 1 is invalid"),
        (
            lambda d: [r.update(category_id=3) for r in d],
            "no class in common; its categories are 3, those of the ground truth cat, dog",
        ),
        (lambda d: [r.update(image_id=1) for r in d], "no detection is on an image of the ground truth"),
    ],
)
def test_invalid_detections_are_reported(tmp_path, change, message):
    detections = json.loads(json.dumps(DETECTIONS))
    change(detections)
    write(tmp_path / "d.json", detections)
    with pytest.raises(ValueError, match=message):
        read_detections(tmp_path / "d.json", read_ground_truth(write_path(tmp_path, GROUND_TRUTH)), by_name=False)


def test_detections_on_unknown_images_are_counted(tmp_path, caplog):
    write(tmp_path / "d.json", [*DETECTIONS, {**DETECTIONS[0], "image_id": 77}])
    assert (
        len(read_detections(tmp_path / "d.json", read_ground_truth(write_path(tmp_path, GROUND_TRUTH)), by_name=False))
        == 2
    )
    assert "1 of 3 detections are on images that are not in the ground truth" in caplog.text


def test_detections_of_unknown_classes_are_counted(tmp_path, caplog):
    write(tmp_path / "d.json", [*DETECTIONS, {**DETECTIONS[0], "category_id": 8}])
    assert (
        len(read_detections(tmp_path / "d.json", read_ground_truth(write_path(tmp_path, GROUND_TRUTH)), by_name=False))
        == 2
    )
    assert "1 detections have classes that are not in the ground truth (8)" in caplog.text


def test_equal_stems_need_full_file_names(tmp_path):
    ground_truth = {**GROUND_TRUTH, "images": [{"id": 5, "file_name": "x/1.jpg"}, {"id": 9, "file_name": "y/1.jpg"}]}
    detections = {"categories": GROUND_TRUTH["categories"], "annotations": DETECTIONS}
    write(tmp_path / "d.json", {**detections, "images": ground_truth["images"]})
    assert len(read_detections(tmp_path / "d.json", ground_truth, by_name=False)) == 2
    write(
        tmp_path / "d.json",
        {**detections, "images": [{"id": 5, "file_name": "1.jpg"}, {"id": 9, "file_name": "z/1.jpg"}]},
    )
    with pytest.raises(ValueError, match="are ambiguous"):
        read_detections(tmp_path / "d.json", ground_truth, by_name=False)


def test_invalid_ground_truth_is_reported(tmp_path):
    with pytest.raises(ValueError, match="expected COCO annotations"):
        read_ground_truth(write_path(tmp_path, []))
    with pytest.raises(ValueError, match="has image_id 6"):
        read_ground_truth(
            write_path(tmp_path, {**GROUND_TRUTH, "annotations": [{**GROUND_TRUTH["annotations"][0], "image_id": 6}]})
        )
    with pytest.raises(FileNotFoundError):
        read_ground_truth(tmp_path / "absent.json")


@pytest.mark.data
def test_results_of_another_detector(shared, tmp_path):
    """voc100's detections: a dictionary that uses category id 0 and other image ids."""
    detections = str(shared / "data/voc100/detections_coco/coco_dets.json")
    assert main([detections, str(shared / "data/voc100"), "--output", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0.5 < metrics["VOC07_mAP"] < 0.7
    assert len(metrics["per_class"]) == 20
