"""Predictor: paths, PIL images and arrays as input; the same detections as the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detection import Detections, Predictor, build_model, load_config
from detection.checkpoint.detector import read_detector, save_detector
from detection.checkpoint.metadata import Classes
from detection.cli import run

KEYS = [
    "data.short_side=[64]",
    "data.max_side=96",
    "model.norm=bn",
    "model.conv5_norm=null",
    "model.roi.score_threshold=0",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    config = load_config("quickstart.yaml", [*KEYS, "model.rpn.after_nms_test=10"])
    path = tmp_path_factory.mktemp("detector") / "best.pth"
    save_detector(path, build_model(config.model, 3), config, Classes(("a", "b", "c"), (1, 5, 9)))
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


def same(a, b):
    assert len(a) == len(b) > 0
    for x, y in ((a.boxes, b.boxes), (a.scores, b.scores), (a.labels, b.labels)):
        assert np.array_equal(x, y)


def test_path_array_and_pil_image_are_equivalent(weights, photo):
    path, pixels = photo
    predictor = Predictor(weights, device="cpu")
    expected = predictor(str(path))
    assert isinstance(expected, Detections)
    for image in (path, pixels, Image.fromarray(pixels)):
        same(predictor(image), expected)
    (first, second) = predictor([path, pixels])
    same(first, expected)
    same(second, expected)
    assert predictor([]) == []
    assert expected.boxes.dtype == expected.scores.dtype == np.float32
    assert (expected.boxes[:, 2] <= 70).all()
    assert (expected.boxes[:, 3] <= 50).all()


def test_command_writes_the_same_detections(weights, photo, tmp_path, capsys):
    path, _ = photo
    assert run("predict", ["--weights", str(weights), str(path), "--output", str(tmp_path), "--device", "cpu"]) == 0
    rows = json.loads((tmp_path / "detections.json").read_text())["annotations"]
    expected = Predictor(weights, device="cpu")(path).to_coco(1)
    assert [{k: row[k] for k in expected[0]} for row in rows] == expected
    assert {row["category_id"] for row in rows} <= {1, 5, 9}


def test_exif_rotation_is_applied(weights, photo, tmp_path):
    _, pixels = photo
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "r.png", exif=exif)
    predictor = Predictor(weights, device="cpu")
    same(predictor(tmp_path / "r.png"), predictor(pixels))
    same(predictor(Image.open(tmp_path / "r.png")), predictor(pixels))


def test_thresholds_and_classes(weights, photo):
    path, _ = photo
    everything = Predictor(weights, device="cpu")(path)
    middle = float(np.median(everything.scores))
    assert (Predictor(weights, device="cpu", score_threshold=middle)(path).scores > middle).all()
    only = Predictor(weights, device="cpu", classes=["b"])(path)
    assert set(only.names) <= {"b"}
    assert len(only) == (everything.labels == 2).sum()
    with pytest.raises(ValueError, match=r"no class 'd'; it has a, b, c"):
        Predictor(weights, device="cpu", classes=["b", "d"])
    with pytest.raises(ValueError, match="fraction from 0 to 1, got 50"):
        Predictor(weights, device="cpu", score_threshold=50)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3)), r"float64 \[8, 8, 3\]"),
        (np.zeros((8, 8), dtype=np.uint8), r"uint8 \[8, 8\]"),
        (7, "got int"),
        (torch.zeros(3, 8, 8), "got Tensor"),
    ],
)
def test_invalid_inputs_raise(weights, image, message):
    with pytest.raises(TypeError, match=message):
        Predictor(weights, device="cpu")(image)


def test_equals_the_model_at_the_test_size(weights):
    """Where nothing is resized, ``model(images)`` gives what the predictor gives."""
    predictor = Predictor(weights, device="cpu", precision="float32")
    data = predictor.config.data
    side = data.short_side[-1]
    pixels = np.random.default_rng(1).integers(0, 256, (side, min(side + 10, data.max_side), 3), dtype=np.uint8)
    found = predictor(pixels)
    (expected,) = predictor.model([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])
    assert len(found) > 0
    assert np.array_equal(found.boxes, expected["boxes"].numpy())
    assert np.array_equal(found.scores, expected["scores"].numpy())


def test_suppression_is_a_setting_of_prediction(weights, photo, tmp_path):
    """A detector that was trained without it; a file with the setting says the same."""
    path, _ = photo
    keys = ["model.roi.nms=soft_gaussian", "model.roi.class_agnostic_nms=true"]
    soft = Predictor(weights, device="cpu", overrides=keys)(path)
    assert not np.array_equal(soft.scores, Predictor(weights, device="cpu")(path).scores)
    assert (np.diff(soft.scores) <= 0).all()
    detector, config, classes = read_detector(weights, keys)
    save_detector(tmp_path / "soft.pth", detector, config, classes)
    same(Predictor(tmp_path / "soft.pth", device="cpu")(path), soft)
    same(Predictor(tmp_path / "soft.pth", device="cpu", padded=True)(path), soft)
    arguments = ["--weights", str(weights), str(path), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert run("predict", [*arguments, "--set", keys[0], "--set", keys[1], "--precision", "float32"]) == 0
    written = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"]
    assert [row["score"] for row in written] == pytest.approx(soft.scores.tolist())
