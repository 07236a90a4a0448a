import json

import pytest
import torch
from PIL import Image

from backbone import cifar_resnet
from detection.cli import run


@pytest.fixture
def files(tmp_path):
    """Weights whose classifier prefers class 2 whatever it sees, and an image."""
    metadata = {"format": 1, "config": {"network": {"name": "cifar_resnet20"}}, "classes": ["ant", "bee", "cow"]}
    net = cifar_resnet(20, num_classes=3)
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    torch.save({"classifier": metadata, "recipe": "torchvision", "model": net.state_dict()}, tmp_path / "best.pth")
    Image.new("RGB", (40, 50)).save(tmp_path / "a.png")
    return str(tmp_path / "best.pth"), str(tmp_path / "a.png")


def go(weights, *argv):
    return run("classify", ["--weights", weights, "--short-side", "32", "--crop", "32", "--device", "cpu", *argv])


def test_scores_are_a_softmax_best_first(files, tmp_path):
    weights, image = files
    assert go(weights, image, "--json", str(tmp_path / "out.json")) == 0
    (answers,) = json.loads((tmp_path / "out.json").read_text()).values()
    assert [answer["class"] for answer in answers] == ["cow", "bee", "ant"]
    wanted = torch.tensor([2.0, 1.0, 0.0]).softmax(0).tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(wanted, abs=1e-5)


def test_only_the_best_are_named(files, capsys):
    weights, image = files
    assert go(weights, image, "--top", "1") == 0
    out = capsys.readouterr().out
    assert "cow" in out
    assert "bee" not in out


@pytest.mark.parametrize("options", [["--top", "0"], ["--crop", "33"], ["--crop", "0"]])
def test_numbers_out_of_range_are_refused(files, options, capsys):
    weights, image = files
    assert go(weights, image, *options) == 2
    assert "--top" in capsys.readouterr().err


def test_missing_files_are_named(files, capsys):
    weights, image = files
    assert go(weights, "none.png") == 2
    assert "none.png" in capsys.readouterr().err
    assert go("none.pth", image) == 2
    assert "none.pth" in capsys.readouterr().err


def test_a_file_that_exists_is_not_replaced(files, tmp_path, capsys):
    weights, image = files
    (tmp_path / "out.json").write_text("mine")
    assert go(weights, image, "--json", str(tmp_path / "out.json")) == 2
    out, error = capsys.readouterr()
    assert "out.json already exists and is not replaced: give another --json" in error
    assert out == ""  # before the work
    assert (tmp_path / "out.json").read_text() == "mine"
