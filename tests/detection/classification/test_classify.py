import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights

from backbone import cifar_resnet, resnet18
from detection.classification.classify import class_names
from detection.classification.images import resize_center_crop
from detection.cli import run


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(resnet18(num_classes=7).state_dict(), path)
    return path


def write_image(path, height=40, width=60):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def test_resize_center_crop_equals_torchvision():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8)
    recipe = ResNet50_Weights.IMAGENET1K_V1.transforms()
    expected = recipe(torch.from_numpy(pixels).permute(2, 0, 1))
    mean, std = (torch.tensor(v)[:, None, None] for v in (recipe.mean, recipe.std))
    actual = (resize_center_crop(pixels, 256, 224).float() / 255 - mean) / std
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


def test_names_scores_and_json(weights, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    file = write_image(tmp_path / "in" / "a.png")
    out = tmp_path / "answers.json"
    argv = ["--weights", str(weights), "--network", "resnet18", str(file.parent), "--top", "9", "--json", str(out)]
    assert run("classify", argv) == 0
    (answers,) = json.loads(out.read_text()).values()
    assert sorted(a["class"] for a in answers) == list("0123456")  # capped at the number of classes
    assert sum(a["score"] for a in answers) == pytest.approx(1, abs=1e-5)
    assert [a["score"] for a in answers] == sorted((a["score"] for a in answers), reverse=True)
    assert f"{file}  {answers[0]['class']} {answers[0]['score']:.3f}" in capsys.readouterr().out


def test_unreadable_file_is_skipped(weights, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    good = write_image(tmp_path / "good.png")
    argv = ["--weights", str(weights), "--network", "resnet18", str(tmp_path / "bad.jpg"), str(good)]
    assert run("classify", argv) == 1
    out = capsys.readouterr().out
    assert "1 of 2 files could not be read" in out
    assert "good.png  " in out


def test_weights_of_another_network_are_rejected(weights, tmp_path, capsys):
    file = str(write_image(tmp_path / "a.png"))
    assert run("classify", ["--weights", str(weights), "--network", "resnet34", file]) == 2
    assert "do not match this network" in capsys.readouterr().err
    assert run("classify", ["--weights", str(weights), "--network", "resnet-18", file]) == 2
    assert "did you mean resnet18?" in capsys.readouterr().err
    state = torch.load(weights, weights_only=True)
    torch.save({k: v for k, v in state.items() if not k.startswith("fc")}, weights)
    assert run("classify", ["--weights", str(weights), "--network", "resnet18", file]) == 2
    assert "it is a backbone" in capsys.readouterr().err


def test_checkpoint_metadata_defines_the_network(tmp_path, capsys):
    config = {"network": {"name": "cifar_resnet20", "shortcut": "C"}}
    net = cifar_resnet(20, shortcut="C", num_classes=2)
    metadata = {"format": 1, "config": config, "classes": ["ant", "bee"]}
    torch.save({"classifier": metadata, "recipe": "torchvision", "model": net.state_dict()}, tmp_path / "best.pth")
    argv = [
        "--weights",
        str(tmp_path / "best.pth"),
        str(write_image(tmp_path / "a.png")),
        "--short-side",
        "32",
        "--crop",
        "32",
    ]
    assert run("classify", argv) == 0
    out = capsys.readouterr().out
    assert "ant" in out
    assert "bee" in out


def test_class_names():
    assert class_names(1000)[207] == "golden retriever"
    assert class_names(3) == ["0", "1", "2"]


@pytest.mark.data
def test_real_weights_on_real_photos(tmp_path):
    shared = Path(os.environ["RESDET_SHARED"])
    weights = shared / "weights" / "resnet50_abm_pruned8bit_folded_full.pth"
    out = tmp_path / "answers.json"
    assert (
        run(
            "classify",
            ["--weights", str(weights), "--recipe", "v1_rgb", str(shared / "data/photos"), "--json", str(out)],
        )
        == 0
    )
    best = {Path(file).stem: answers[0]["class"] for file, answers in json.loads(out.read_text()).items()}
    expected = {"000456": "trolleybus", "000542": "Egyptian cat", "001150": "Shih-Tzu", "004545": "sorrel"}
    assert expected.items() <= best.items()
