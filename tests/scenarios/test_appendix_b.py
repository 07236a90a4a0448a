"""Options of testing and global context in whole commands: trained, evaluated, in an ensemble."""

import json

import numpy as np
import pytest
import torch
from runs import load, train

from detection import Predictor, evaluate
from detection.checkpoint.metadata import KEY
from detection.cli import run

pytestmark = pytest.mark.usefixtures("thin_networks")
ALL = ["test.refine=best", "test.vote=true", "test.scales=[48,64,96]", "test.nms_iou=0.3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    keys = ["model.roi.context=true", "model.roi.score_threshold=0.0", "model.roi.max_detections=20"]
    assert train(folder, keys=[*keys, *ALL]) == 0
    return folder


def test_options_hold_in_training_and_in_evaluate(trained, tmp_path):
    during = json.loads((trained / "metrics.json").read_text())
    assert evaluate(trained / "best.pth", output=tmp_path) == during  # the run's configuration has them
    found = json.loads((tmp_path / "detections.json").read_text())
    assert found == json.loads((trained / "detections.json").read_text())
    evaluate(trained / "best.pth", ["test.refine=none", "test.vote=false", "test.scales=[]"], output=tmp_path / "plain")
    plain = json.loads((tmp_path / "plain" / "detections.json").read_text())
    assert plain != found


def test_an_ensemble_of_a_file_with_itself_is_that_file(trained, tmp_path, capsys):
    weights = str(trained / "best.pth")
    assert run("evaluate", ["--weights", weights, weights, *ALL, "--output", str(tmp_path)]) == 0
    twice = json.loads((tmp_path / "detections.json").read_text())
    once = json.loads((trained / "detections.json").read_text())
    assert len(twice) == len(once)
    for a, b in zip(twice, once, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-2)


def test_other_classes_are_refused(trained, tmp_path, capsys):
    assert train(tmp_path / "other", keys=["data.val=1", "solver.max_iter=1"]) == 0

    content = load(tmp_path / "other" / "best.pth")
    names = content[KEY]["classes"]
    content[KEY]["classes"] = (
        {**names, "names": ["a", *names["names"][1:]]} if isinstance(names, dict) else ["a", *names[1:]]
    )
    torch.save(content, tmp_path / "renamed.pth")
    argv = ["--weights", str(trained / "best.pth"), str(tmp_path / "renamed.pth"), "--output", str(tmp_path / "out")]
    assert run("evaluate", argv) == 2
    err = capsys.readouterr().err
    assert "an ensemble is of detectors of the same classes" in err
    assert "renamed.pth: a, " in err


def test_detectron2_has_no_global_context(trained, tmp_path, capsys):
    argv = [str(trained / "best.pth"), str(tmp_path / "d2.pkl"), "--to", "detectron2"]
    assert run("convert-weights", argv) == 2
    assert "has global context (model.roi.context=true), which detectron2's" in capsys.readouterr().err
    assert not (tmp_path / "d2.pkl").exists()


def test_the_predictor_has_them_too(trained):
    """As the run's configuration says, or as overrides do."""
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    found = Predictor(trained / "best.pth", precision="float32")(image)
    off = ["test.refine=none", "test.vote=false", "test.scales=[]", "test.nms_iou=null"]
    plain = Predictor(trained / "best.pth", precision="float32", overrides=off)(image)
    again = Predictor(trained / "best.pth", precision="float32", overrides=[*off, *ALL])(image)
    assert len(found) > 0
    assert np.array_equal(found.boxes, again.boxes)
    assert not np.array_equal(found.boxes, plain.boxes)
