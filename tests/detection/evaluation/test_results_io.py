import json

import pytest

from detection.commands.evaluate import main
from detection.evaluation.results_io import read_detections, read_truth

TRUTH = {
    "images": [{"id": 5, "file_name": "x/a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "categories": [{"id": 0, "name": "cat"}, {"id": 4, "name": "dog"}],
    "annotations": [
        {"id": 0, "image_id": 5, "category_id": 0, "bbox": [0, 0, 20, 20]},
        {"id": 1, "image_id": 9, "category_id": 4, "bbox": [5, 5, 20, 20]},
    ],
}
FOUND = [
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


def test_a_list_against_coco(tmp_path, capsys):
    assert (
        main([write(tmp_path / "d.json", FOUND), write(tmp_path / "t.json", TRUTH), "--output", str(tmp_path / "out")])
        == 0
    )
    assert json.loads((tmp_path / "out/metrics.json").read_text())["AP"] == 1
    assert "AP50" in capsys.readouterr().out


def test_a_dictionary_with_ids_of_its_own(tmp_path):
    theirs = {
        "images": [{"id": 0, "file_name": "b.png"}, {"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9},
            {"image_id": 0, "category_id": 0, "bbox": [5, 5, 20, 20], "score": 0.8},
        ],
    }
    path = write(tmp_path / "d.json", theirs)
    truth = read_truth(write_path(tmp_path, TRUTH))
    found = read_detections(tmp_path / "d.json", truth, by_name=False)
    assert [(d["image_id"], d["category_id"]) for d in found] == [(5, 0), (9, 4)]
    assert main([path, voc(tmp_path / "VOC"), "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["VOC07_mAP"] == 1


def write_path(tmp_path, tree):
    write(tmp_path / "truth.json", tree)
    return tmp_path / "truth.json"


@pytest.mark.parametrize("name", ["a", "a.jpg", "images/a.jpeg"])
def test_a_list_against_voc_by_name(tmp_path, name):
    found = [
        {"image_id": name, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9},
        {"image_id": "b", "category_id": 77, "category_name": "dog", "bbox": [5, 5, 20, 20], "score": 0.9},
    ]
    assert (
        main(
            [
                write(tmp_path / "d.json", found),
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
        (lambda d: d[0].pop("score"), "detection 0 lacks 'score'"),
        (lambda d: d[1].update(bbox=[1, 2]), "detection 1 is garbled"),
        (
            lambda d: [r.update(category_id=3) for r in d],
            "no class in common; its categories are 3, the truth's cat, dog",
        ),
        (lambda d: [r.update(image_id=1) for r in d], "no detection is on an image of the truth"),
    ],
)
def test_bad_detections_are_named(tmp_path, change, message):
    found = json.loads(json.dumps(FOUND))
    change(found)
    write(tmp_path / "d.json", found)
    with pytest.raises(ValueError, match=message):
        read_detections(tmp_path / "d.json", read_truth(write_path(tmp_path, TRUTH)), by_name=False)


def test_some_strays_are_counted(tmp_path, caplog):
    write(tmp_path / "d.json", [*FOUND, {**FOUND[0], "image_id": 77}])
    assert len(read_detections(tmp_path / "d.json", read_truth(write_path(tmp_path, TRUTH)), by_name=False)) == 2
    assert "1 of 3 detections are on images that the truth does not list" in caplog.text


def test_classes_that_the_truth_lacks_are_counted(tmp_path, caplog):
    write(tmp_path / "d.json", [*FOUND, {**FOUND[0], "category_id": 8}])
    assert len(read_detections(tmp_path / "d.json", read_truth(write_path(tmp_path, TRUTH)), by_name=False)) == 2
    assert "1 detections are of classes that the truth lacks (8)" in caplog.text


def test_equal_stems_are_told_apart_or_refused(tmp_path):
    truth = {**TRUTH, "images": [{"id": 5, "file_name": "x/1.jpg"}, {"id": 9, "file_name": "y/1.jpg"}]}
    found = {"categories": TRUTH["categories"], "annotations": FOUND}
    write(tmp_path / "d.json", {**found, "images": truth["images"]})
    assert len(read_detections(tmp_path / "d.json", truth, by_name=False)) == 2
    write(
        tmp_path / "d.json", {**found, "images": [{"id": 5, "file_name": "1.jpg"}, {"id": 9, "file_name": "z/1.jpg"}]}
    )
    with pytest.raises(ValueError, match="do not tell images apart"):
        read_detections(tmp_path / "d.json", truth, by_name=False)


def test_bad_truth_is_named(tmp_path):
    with pytest.raises(ValueError, match="wanted COCO annotations"):
        read_truth(write_path(tmp_path, []))
    with pytest.raises(ValueError, match="of image 6"):
        read_truth(write_path(tmp_path, {**TRUTH, "annotations": [{**TRUTH["annotations"][0], "image_id": 6}]}))
    with pytest.raises(FileNotFoundError):
        read_truth(tmp_path / "absent.json")


@pytest.mark.data
def test_another_detectors_file(shared, tmp_path):
    """voc100's detections: a dictionary with category id 0 in use and image ids of its own."""
    detections = str(shared / "data/voc100/detections_coco/coco_dets.json")
    assert main([detections, str(shared / "data/voc100"), "--output", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0.5 < metrics["VOC07_mAP"] < 0.7
    assert len(metrics["per_class"]) == 20
