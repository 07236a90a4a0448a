"""Detectors on grey images and on images of four channels: from files to detections, and pretrained weights for them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL, command_train

from backbone import RECIPES, Recipe, load_weights, resnet18
from backbone.weights import adapt_input
from detection import FasterRCNN, Predictor, build_model, load_config
from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import Classes
from detection.checkpoint.start import start_weights
from detection.cli import run
from detection.data.image import WrongChannels, as_pixels, read_image

pytestmark = pytest.mark.usefixtures("thin_networks")
NARROW = {"widths": [8, 16, 32, 64], "stem_width": 8}
EVEN = Recipe("even", "RGB", 1.0, (0.4, 0.4, 0.4), (0.25, 0.25, 0.25), "3x3", "pad1")


def detector(recipe, channels, conv1):
    """A detector with this first convolution, and otherwise the same weights whatever its channels."""
    torch.manual_seed(0)
    options = {"recipe": recipe, "roi": {"resolution": 4, "score_threshold": 0.0}, "rpn": {"after_nms_test": 20}}
    state = FasterRCNN(resnet18(**NARROW, norm="bn"), 3, **options).state_dict()
    model = FasterRCNN(resnet18(**NARROW, norm="bn", in_channels=channels), 3, **options).eval()
    model.load_state_dict(state | {"trunk.conv1.weight": conv1})
    return model


def first_map(model, image):
    with torch.no_grad():
        return model.trunk(model.batch([image]))


def test_a_grey_image_is_the_rgb_image_of_it():
    """Summed weights see one channel as the RGB network sees it three times, exactly where the recipe's means and deviations are
    equal; elsewhere the mean of the three stands for them."""
    conv1 = torch.randn(8, 3, 7, 7) / 12
    grey = torch.rand(1, 64, 80)
    for recipe, tolerance in ((EVEN, 1e-5), (RECIPES["torchvision"], 0.2)):
        rgb, one = detector(recipe, 3, conv1), detector(recipe, 1, adapt_input(conv1, 1, recipe))
        wanted, got = first_map(rgb, grey.expand(3, -1, -1)), first_map(one, grey)
        assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
        if recipe is EVEN:
            for a, b in zip(rgb([grey.expand(3, -1, -1)]), one([grey]), strict=True):
                torch.testing.assert_close(a["boxes"], b["boxes"], atol=1e-2, rtol=0)
                torch.testing.assert_close(a["scores"], b["scores"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("recipe", ["torchvision", "msra"])
def test_more_channels_take_rgbs_weights_in_turn(recipe):
    """Three equal channels more, of equal values: the RGB network's response."""
    recipe = RECIPES[recipe]
    conv1 = torch.randn(8, 3, 7, 7)
    image = torch.rand(3, 64, 80)
    rgb, six = detector(recipe, 3, conv1), detector(recipe, 6, adapt_input(conv1, 6, recipe))
    wanted = first_map(rgb, image)
    assert (first_map(six, image.repeat(2, 1, 1)) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    order = [0, 1, 2] if recipe.channels == "RGB" else [2, 1, 0]
    weight = adapt_input(conv1, 4, recipe)
    for k, source in enumerate([*order, order[0]]):
        torch.testing.assert_close(weight[:, k], conv1[:, source] * 0.75)
    assert adapt_input(conv1, 3, recipe) is conv1
    four = recipe.for_channels(4)
    assert (four.channels, four.mean[3], four.mean[:3]) == ("RGB", four.mean[0], tuple(recipe.mean[i] for i in order))
    assert recipe.for_channels(1).mean == pytest.approx((sum(recipe.mean) / 3,))


def test_loading_adapts_the_first_convolution(tmp_path):
    torch.manual_seed(0)
    rgb = resnet18(**NARROW)
    torch.save(rgb.state_dict(), tmp_path / "rgb.pth")
    grey = resnet18(**NARROW, in_channels=1)
    report = load_weights(grey, tmp_path / "rgb.pth")
    assert not report.mismatched
    torch.testing.assert_close(grey.conv1.weight, rgb.conv1.weight.sum(1, keepdim=True))


def test_images_of_every_mode(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    rgba, grey = Image.fromarray(pixels), Image.fromarray(pixels[:, :, 0])
    for name in ("a.png", "a.tif"):
        rgba.save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name, channels=4), pixels)
    grey.save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png", channels=1)[:, :, 0], pixels[:, :, 0])
    assert read_image(tmp_path / "grey.png").shape == (20, 30, 3)
    colour = rgba.convert("RGB")
    assert np.array_equal(as_pixels(colour, 1)[:, :, 0], np.asarray(colour.convert("L")))
    colour.save(tmp_path / "colour.png")
    with pytest.raises(WrongChannels, match=r"colour.png has 3 channels \(RGB\), and the detector takes 4"):
        read_image(tmp_path / "colour.png", channels=4)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    grey.save(tmp_path / "rotated.jpg", exif=rotated)
    assert read_image(tmp_path / "rotated.jpg", channels=1).shape == (30, 20, 1)


def dataset(root, mode):
    """Four images of a mode, with a box each."""
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng, images, annotations = np.random.default_rng(0), [], []
    bands = len(Image.new(mode, (1, 1)).getbands())
    for i in range(1, 5):
        pixels = rng.integers(0, 256, (60, 80, bands), dtype=np.uint8)
        Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels, mode).save(root / "train" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 80})
        annotations.append(
            {"id": i, "image_id": i, "category_id": 1, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return [f"data.root={root}", "data.format=coco", "data.train=train", "data.val=train"]


def small(*keys):
    return [*(k for k in SMALL if not k.startswith(("data.train", "data.val"))), *keys, "solver.max_iter=1"]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
def test_a_run_its_evaluation_and_its_predictions_agree(tmp_path, mode, channels):
    keys = small(*dataset(tmp_path / "data", mode), f"model.in_channels={channels}", "model.roi.score_threshold=0")
    out = tmp_path / "run"
    assert command_train(["--config", "quickstart.yaml", "--output", str(out), *keys]) == 0
    assert (out / "pictures" / "all.png").exists()
    again = tmp_path / "again"
    weights = ["--eval-only", "--weights", str(out / "best.pth")]  # the checkpoint says its channels, not these keys
    rgb = [key for key in keys if "in_channels" not in key]
    assert command_train(["--config", "quickstart.yaml", "--output", str(again), *weights, *rgb]) == 0
    assert (again / "detections.json").read_text() == (out / "detections.json").read_text()
    predictor = Predictor(out / "best.pth", device="cpu", precision="float32")
    assert predictor.channels == channels
    file = tmp_path / "data" / "train" / "1.png"
    found = predictor(file)
    rows = [d for d in json.loads((out / "detections.json").read_text()) if d["image_id"] == 1]
    np.testing.assert_allclose(found.scores[:5], [d["score"] for d in rows[:5]], rtol=1e-5)
    pixels = np.asarray(Image.open(file))
    assert np.array_equal(predictor(pixels).scores, found.scores)
    assert np.array_equal(predictor(Image.open(file)).scores, found.scores)
    with pytest.raises(TypeError, match=rf"uint8 array \[H, W, {channels}\], got an array of uint8 \[9, 9, 3\]"):
        predictor(np.zeros((9, 9, 3), dtype=np.uint8))
    assert (
        run(
            "predict",
            ["--weights", str(out / "best.pth"), str(file), "--output", str(tmp_path / "p"), "--device", "cpu"],
        )
        == 0
    )
    assert (tmp_path / "p" / "1.jpg").exists()


def test_images_of_other_channels_are_refused_at_the_start(tmp_path, capsys):
    keys = small(*dataset(tmp_path / "data", "RGB"), "model.in_channels=4")
    assert command_train(["--config", "quickstart.yaml", "--output", str(tmp_path / "run"), *keys]) == 2
    assert "1.png has 3 channels (RGB), and the detector takes 4 (model.in_channels=4)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert (
        command_train(["--config", "quickstart.yaml", "--output", str(tmp_path / "run"), *SMALL, "model.in_channels=4"])
        == 2
    )
    assert "the synthetic shapes are RGB" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ["c4", "fpn"])
def test_a_whole_detector_is_fine_tuned_on_other_channels(tmp_path, architecture):
    keys = [f"model.architecture={architecture}", "model.norm=bn", "model.conv5_norm=null", "pretrain.iterations=0"]
    keys += ["model.anchors.sizes=[16,32,64,128,256]", "data.format=coco"]
    config = load_config("quickstart.yaml", keys)
    classes = Classes(("cat", "dog"), (1, 2))
    rgb = build_model(config.model, 2)
    save_detector(tmp_path / "rgb.pth", rgb, config, classes)
    grey = load_config("quickstart.yaml", [*keys, "model.in_channels=1", f"model.weights={tmp_path}/rgb.pth"]).model
    model = build_model(grey, 2)
    start_weights(model, grey, classes)
    name = "trunk.conv1.weight" if architecture == "c4" else "trunk.body.conv1.weight"
    state, wanted = model.state_dict(), rgb.state_dict()
    torch.testing.assert_close(state.pop(name), wanted.pop(name).sum(1, keepdim=True))
    assert all(torch.equal(value, wanted[key]) for key, value in state.items())
