import json

import numpy as np
import pytest
from PIL import Image
from scenes import det, truth

from detection.data.annotations import DataError
from detection.report.sources import find_images, fingerprint, open_inputs, other_detections, run_facts

A = [0, 0, 10, 10]


@pytest.fixture
def folder(tmp_path):
    """COCO's layout: annotations/val.json, val/*.jpg, and detections."""
    ground_truth = truth((1, 1, A), (2, 2, A))
    ground_truth["images"][0]["camera"] = "left"
    for name in ("annotations", "val"):
        (tmp_path / name).mkdir()
    (tmp_path / "annotations" / "val.json").write_text(json.dumps(ground_truth))
    (tmp_path / "detections.json").write_text(json.dumps([det(1, 1, A, 0.9)]))
    Image.fromarray(np.full((100, 100, 3), 7, np.uint8)).save(tmp_path / "val" / "1.jpg")
    return tmp_path


def test_files_with_and_without_images(folder):
    inputs = open_inputs(folder / "detections.json", folder / "annotations" / "val.json")
    assert inputs.title == "detections on val"
    assert inputs.ground_truth["images"][0]["camera"] == "left"
    assert inputs.read("1.jpg").shape == (100, 100, 3)
    assert len(inputs.facts["detections' SHA-256"]) == 64
    (folder / "val" / "1.jpg").unlink()
    assert open_inputs(folder / "detections.json", folder / "annotations" / "val.json").read is None
    assert other_detections(folder / "detections.json", inputs).title == "detections"


def test_images_of_voc(tmp_path):
    (tmp_path / "VOC2012" / "JPEGImages").mkdir(parents=True)
    assert find_images(tmp_path, []) == tmp_path / "VOC2012" / "JPEGImages"
    assert find_images(tmp_path / "VOC2012", []) == tmp_path / "VOC2012" / "JPEGImages"


def test_no_run(folder):
    with pytest.raises(DataError, match=r"has no detections\.json: it is no run"):
        open_inputs(folder / "val", None)
    with pytest.raises(DataError, match="is no run's folder"):
        open_inputs(folder / "detections.json", None)


def test_a_run_of_files_alone(folder):
    (folder / "ground_truth.json").write_text((folder / "annotations" / "val.json").read_text())
    inputs = open_inputs(folder, None)
    assert inputs.run == folder
    assert inputs.read is None
    assert len(inputs.detections) == 1


def test_facts_survive_broken_files(tmp_path):
    (tmp_path / "run.json").write_text("[]")
    (tmp_path / "best.pth").write_bytes(b"x")
    facts = run_facts(tmp_path)
    assert facts["command"] is None
    assert facts["best.pth's SHA-256"].startswith("2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")


def test_fingerprint():
    a = fingerprint(truth((1, 1, A)))
    assert a == fingerprint(truth((1, 1, A)))
    assert (
        len(
            {
                a,
                fingerprint(truth((1, 2, A))),
                fingerprint(truth((1, 1, [0, 0, 10, 11]))),
                fingerprint(truth((1, 1, A), images=3)),
            }
        )
        == 4
    )
