import json

import pytest

from detection.commands.evaluate import main
from detection.data.coco import read_coco_file
from detection.evaluation.results_io import convention_doubt, read_detections

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
    assert json.loads((tmp_path / "out/metrics.json").read_text())["AP"] == pytest.approx(1)
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
    ground_truth = truth(write_path(tmp_path, GROUND_TRUTH))
    detections = read_detections(tmp_path / "d.json", ground_truth)
    assert [(d["image_id"], d["category_id"]) for d in detections] == [(5, 0), (9, 4)]
    assert main([path, voc(tmp_path / "VOC"), "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["VOC07_mAP"] == 1


def truth(path):
    return read_coco_file(path).to_coco()


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
    assert metrics["VOC_mAP"] == metrics["VOC_mAP@0.9"] == 1
    assert metrics["AP"] == pytest.approx(1)


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
        read_detections(tmp_path / "d.json", truth(write_path(tmp_path, GROUND_TRUTH)))


def test_detections_on_unknown_images_are_counted(tmp_path, caplog):
    write(tmp_path / "d.json", [*DETECTIONS, {**DETECTIONS[0], "image_id": 77}])
    assert len(read_detections(tmp_path / "d.json", truth(write_path(tmp_path, GROUND_TRUTH)))) == 2
    assert "1 of 3 detections are on images that are not in the ground truth" in caplog.text


def test_detections_of_unknown_classes_are_counted(tmp_path, caplog):
    write(tmp_path / "d.json", [*DETECTIONS, {**DETECTIONS[0], "category_id": 8}])
    assert len(read_detections(tmp_path / "d.json", truth(write_path(tmp_path, GROUND_TRUTH)))) == 2
    assert "1 detections have classes that are not in the ground truth (8)" in caplog.text


def test_equal_stems_need_full_file_names(tmp_path):
    ground_truth = {**GROUND_TRUTH, "images": [{"id": 5, "file_name": "x/1.jpg"}, {"id": 9, "file_name": "y/1.jpg"}]}
    detections = {"categories": GROUND_TRUTH["categories"], "annotations": DETECTIONS}
    write(tmp_path / "d.json", {**detections, "images": ground_truth["images"]})
    assert len(read_detections(tmp_path / "d.json", ground_truth)) == 2
    write(
        tmp_path / "d.json",
        {**detections, "images": [{"id": 5, "file_name": "1.jpg"}, {"id": 9, "file_name": "z/1.jpg"}]},
    )
    with pytest.raises(ValueError, match="are ambiguous"):
        read_detections(tmp_path / "d.json", ground_truth)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": float("nan")}, "detection 1 is invalid: score: nan is not a finite number"),
        ({"score": "good"}, "detection 1 is invalid: score: 'good' is not a number"),
        ({"bbox": [1, 2, 3, 4, 5]}, r"detection 1 is invalid: bbox \[1, 2, 3, 4, 5\] has 5 values"),
        ({"bbox": [1, 2, float("inf"), 4]}, "inf is not a finite number"),
        ({"image_id": None}, "image_id None is neither"),
        ({"category_id": [1]}, r"category_id \[1\] is neither"),
        ({"category_id": True}, "category_id True is neither"),
    ],
)
def test_the_row_of_a_broken_value_is_named(tmp_path, change, words):
    write(tmp_path / "d.json", [DETECTIONS[0], DETECTIONS[1] | change])
    with pytest.raises(ValueError, match=rf"d\.json: .*{words}"):
        read_detections(tmp_path / "d.json", truth(write_path(tmp_path, GROUND_TRUTH)))


@pytest.mark.parametrize(
    "ids", [("5", "9"), ("a.jpg", "b.jpg"), ("a", "b"), ("x/a.jpg", "b"), ("elsewhere/a.png", "b.png"), (5.0, 9.0)]
)
def test_images_match_by_id_in_quotes_file_name_or_stem(tmp_path, ids):
    rows = [row | {"image_id": image} for row, image in zip(DETECTIONS, ids, strict=True)]
    write(tmp_path / "d.json", [row | {"category_id": str(row["category_id"]), "score": "0.5"} for row in rows])
    found = read_detections(tmp_path / "d.json", truth(write_path(tmp_path, GROUND_TRUTH)))
    assert [(d["image_id"], d["category_id"], d["score"]) for d in found] == [(5, 0, 0.5), (9, 4, 0.5)]


def test_a_dot_in_a_name_is_no_extension(tmp_path):
    images = [{"id": 1, "file_name": "frame.0001.jpg"}, {"id": 2, "file_name": "frame.0002.jpg"}]
    annotations = [{"id": i, "image_id": i, "category_id": 0, "bbox": [0, 0, 20, 20]} for i in (1, 2)]
    ground_truth = truth(write_path(tmp_path, GROUND_TRUTH | {"images": images, "annotations": annotations}))
    rows = [
        {"image_id": f"frame.000{i}", "category_id": 0, "bbox": [0, 0, 20, 20], "score": 0.9, "category_name": "cat"}
        for i in (1, 2)
    ]
    write(tmp_path / "d.json", rows)
    assert [d["image_id"] for d in read_detections(tmp_path / "d.json", ground_truth)] == [1, 2]


def test_boxes_of_another_convention_are_doubted(tmp_path, caplog):
    images = [{"id": 1, "width": 100, "height": 80}]
    corners = [{"image_id": 1, "bbox": [10.0 * i, 5.0 * i, 10.0 * i + 30, 5.0 * i + 20]} for i in range(1, 7)]
    assert "look like [x1, y1, x2, y2]" in convention_doubt(corners, {"images": images})
    sizes = [{"image_id": 1, "bbox": [10.0 * i, 5.0 * i, 30.0, 20.0]} for i in range(1, 7)]
    assert convention_doubt(sizes, {"images": images}) == ""
    assert "relative" in convention_doubt([{"image_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4]}], {"images": images})
    assert convention_doubt(corners, {"images": [{"id": 1, "width": 0, "height": 0}]}) == ""  # sizes unknown


def test_category_ids_that_count_from_zero_are_hinted_at(tmp_path, caplog):
    ground_truth = GROUND_TRUTH | {
        "categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [],
    }
    rows = [row | {"category_id": k} for k, row in enumerate(DETECTIONS)]
    write(tmp_path / "d.json", rows)
    assert len(read_detections(tmp_path / "d.json", truth(write_path(tmp_path, ground_truth)))) == 1
    assert "seem to count from 0" in caplog.text


def test_all_detections_of_a_crowded_image_count(tmp_path):
    """400 objects, all found: COCO's 100 alone reach a quarter of them."""
    boxes = [[20 * (i % 20), 20 * (i // 20), 15, 15] for i in range(400)]
    annotations = [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": b} for i, b in enumerate(boxes)]
    tree = {"images": [{"id": 1, "file_name": "a.jpg", "width": 400, "height": 400}], "annotations": annotations}
    rows = [{"image_id": 1, "category_id": 1, "bbox": b, "score": 1 - i / 1000} for i, b in enumerate(boxes)]
    files = [
        write(tmp_path / "d.json", rows),
        write(tmp_path / "t.json", tree | {"categories": [{"id": 1, "name": "c"}]}),
    ]
    assert main([*files, "--output", str(tmp_path / "a")]) == 0
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    assert (metrics["AP@400"], metrics["AR400"], metrics["AR100"]) == (1.0, 1.0, 0.25)
    assert metrics["AP"] == pytest.approx(0.257, abs=1e-3)
    assert main([*files, "--output", str(tmp_path / "b"), "--max-detections", "1000"]) == 0
    metrics = json.loads((tmp_path / "b/metrics.json").read_text())
    assert (metrics["AP"], metrics["AR1000"], metrics["AR100"]) == (1.0, 1.0, 0.25)
    assert metrics["AP@100"] == pytest.approx(0.257, abs=1e-3)


@pytest.mark.data
def test_results_of_another_detector(shared, tmp_path):
    """voc100's detections: a dictionary that uses category id 0 and other image ids."""
    detections = str(shared / "data/voc100/detections_coco/coco_dets.json")
    assert main([detections, str(shared / "data/voc100"), "--output", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0.5 < metrics["VOC07_mAP"] < 0.7
    assert len(metrics["per_class"]) == 20
