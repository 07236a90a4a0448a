import json

import numpy as np
import pytest
import torch
from PIL import Image

from detection import Predictor
from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import Classes
from detection.cli import run
from detection.config import AnchorConfig, Config, DataConfig, ModelConfig, RoIConfig, RPNConfig
from detection.modeling.build import build_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A detector that nobody trained, which finds something everywhere."""
    torch.manual_seed(0)
    roi = RoIConfig(resolution=2, score_threshold=0.0, max_detections=5)
    rpn = RPNConfig(channels=8, after_nms_test=5)
    model = ModelConfig(backbone="resnet18", norm="bn", freeze_at=0, anchors=AnchorConfig((16, 32)), rpn=rpn, roi=roi)
    config = Config(model=model, data=DataConfig(short_side=(32,), max_side=48))
    path = tmp_path_factory.mktemp("detector") / "best.pth"
    save_detector(path, build_model(model, 2), config, Classes(("cat", "dog"), (3, 8)))
    return path


def photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def go(weights, output, *inputs, options=()):
    argv = ["--weights", weights, "--output", output, "--device", "cpu", "--precision", "float32", *options, *inputs]
    return run("predict", [str(a) for a in argv])


def test_detections_are_the_predictors(weights, tmp_path):
    files = [photo(tmp_path / "in" / f"{name}.png", seed) for seed, name in enumerate("ab")]
    assert go(weights, tmp_path / "out", tmp_path / "in", options=["--batch-size", "2"]) == 0
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}]
    assert content["images"] == [
        {"id": i, "file_name": str(file), "height": 30, "width": 40} for i, file in enumerate(files, 1)
    ]
    wanted = Predictor(weights, device="cpu", precision="float32")(files, batch_size=2)
    rows = [row for i, found in enumerate(wanted, 1) for row in found.to_coco(i)]
    assert rows
    for i, (row, own) in enumerate(zip(content["annotations"], rows, strict=True), 1):
        assert own.items() <= row.items()
        assert (row["id"], row["iscrowd"], row["area"]) == (i, 0, own["bbox"][2] * own["bbox"][3])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_finds_the_same_to_rounding(weights, tmp_path, precision):
    photo(tmp_path / "in" / "a.png", 1)
    assert go(weights, tmp_path / "out", tmp_path / "in" / "*.png", options=["--precision", precision]) == 0
    found = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"]
    wanted = Predictor(weights, device="cpu", precision="float32")(str(tmp_path / "in" / "a.png"))
    exact = Predictor(weights, device="cpu", precision=precision)(str(tmp_path / "in" / "a.png"))
    assert [row["score"] for row in found] == exact.scores.tolist()
    assert exact.scores == pytest.approx(wanted.scores, abs=0.02)
    assert exact.scores.tolist() != wanted.scores.tolist()


def test_images_of_one_name_and_of_the_output_folder(weights, tmp_path):
    for seed, folder in enumerate(("a", "b")):
        photo(tmp_path / folder / "same.png", seed)
    photo(tmp_path / "out" / "earlier.png", 5)  # not an input
    assert go(weights, tmp_path / "out", tmp_path) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"same.jpg", "same-2.jpg"}


def test_boxes_are_drawn_from_the_threshold_on(weights, tmp_path):
    file = photo(tmp_path / "a.png", 0)
    for threshold in ("0", "1"):
        assert go(weights, tmp_path / threshold, file, options=["--threshold", threshold]) == 0
    assert (tmp_path / "0" / "a.jpg").read_bytes() != (tmp_path / "1" / "a.jpg").read_bytes()
    assert (tmp_path / "0" / "detections.json").read_text() == (tmp_path / "1" / "detections.json").read_text()


def test_a_file_that_cannot_be_read_is_skipped_and_counted(weights, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert go(weights, tmp_path / "out", tmp_path / "bad.jpg", photo(tmp_path / "good.png", 0)) == 1
    assert "1 of 2" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [str(tmp_path / "good.png")]


def test_errors_of_the_user(weights, tmp_path, capsys):
    file = photo(tmp_path / "a.png", 0)
    (tmp_path / "empty").mkdir()
    for argv, words in (
        ([weights, tmp_path / "out", tmp_path / "none.png"], "none.png"),
        ([weights, tmp_path / "out", tmp_path / "empty"], "no images"),
        ([tmp_path / "none.pth", tmp_path / "out", file], "none.pth"),
        ([file, tmp_path / "out", file], "a.png"),  # no weights
    ):
        assert go(*argv) == 2
        assert words in capsys.readouterr().err
    assert go(weights, tmp_path / "out", file, options=["--batch-size", "0"]) == 2
    assert "--batch-size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_the_users_files_keeps_them(weights, tmp_path, monkeypatch):
    """resdet predict photo.jpg --output .: the photo, another one of a .png's stem, and what was drawn before."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("photo.jpg", "other.png", "other.jpg", "x.JPG", "X.png")):
        photo(tmp_path / name, seed)
    before = contents(tmp_path)
    assert go(weights, ".", "photo.jpg", "other.png", "x.JPG", "X.png") == 0
    after = contents(tmp_path)
    assert before.items() <= after.items()
    new = {path.name for path in after} - {path.name for path in before}
    assert new == {"photo-2.jpg", "other-2.jpg", "x.jpg", "X-2.jpg", "detections.json"}


def test_a_folder_may_take_its_own_results(weights, tmp_path, monkeypatch):
    """resdet predict . --output .: the photos alone are looked at, the second time too."""
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a.jpg", 0)
    photo(tmp_path / "sub" / "b.jpg", 1)
    photo(tmp_path / "sub" / "._b.jpg", 1)
    for _ in range(2):
        assert go(weights, ".", ".") == 0
        images = json.loads((tmp_path / "detections.json").read_text())["images"]
        assert [image["file_name"] for image in images] == ["a.jpg", "sub/b.jpg"]


def test_larger_images_are_decoded_where_allowed(weights, tmp_path, caplog):
    file = photo(tmp_path / "a.png", 0)
    assert go(weights, tmp_path / "out", file, options=["--max-pixels", "10"]) == 1
    assert "more than the 10 allowed" in caplog.text
    assert "--max-pixels" in caplog.text


@pytest.mark.parametrize("content", ["[]", "no JSON", '{"drawn": [5, "../a.png"]}', '{"drawn": 3}'])
def test_another_programs_detections_are_moved(weights, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "detections.json").write_text(content)
    assert go(weights, tmp_path / "out", photo(tmp_path / "a.png", 0)) == 0
    assert [path.read_text() for path in (tmp_path / "out" / "earlier-1").iterdir()] == [content]


def test_a_second_run_moves_what_the_first_one_made(weights, tmp_path):
    """Its images too, and no other: a[1].jpg is a name, no pattern."""
    photo(tmp_path / "out" / "a.jpg", 3)
    own = contents(tmp_path / "out")
    files = [photo(tmp_path / name, seed) for seed, name in enumerate(("a.png", "a[1].png"))]
    out = tmp_path / "out"
    for threshold in ("0", "1"):
        assert go(weights, out, *files, options=["--threshold", threshold]) == 0
    assert sorted(path.name for path in (out / "earlier-1").iterdir()) == ["a-2.jpg", "a[1].jpg", "detections.json"]
    assert sorted(path.name for path in out.glob("*.*")) == ["a-2.jpg", "a.jpg", "a[1].jpg", "detections.json"]
    assert own.items() <= contents(out).items()
    assert json.loads((out / "detections.json").read_text())["drawn"] == ["a-2.jpg", "a[1].jpg"]


def test_without_weights_nothing_is_moved(weights, tmp_path):
    file = photo(tmp_path / "a.png", 0)
    assert go(weights, tmp_path / "out", file) == 0
    before = contents(tmp_path)
    assert go(tmp_path / "none.pth", tmp_path / "out", file) == 2
    assert contents(tmp_path) == before


def test_an_image_that_cannot_be_drawn_is_a_warning(weights, tmp_path, monkeypatch, caplog):
    file = photo(tmp_path / "a.png", 0)
    monkeypatch.setattr("detection.inference.detections.draw", lambda *_: 1 // 0)
    assert go(weights, tmp_path / "out", file) == 0
    assert f"{file} is not drawn: ZeroDivisionError" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.json"]
