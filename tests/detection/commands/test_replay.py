import math

import pytest
import torch

from detection.checkpoint.metadata import KEY
from detection.cli import run
from detection.commands import replay as command

STEP = {KEY: {}, "seed": 3, "step": 7, "precision": "float32", "files": ["a.jpg", "b.jpg"], "losses": {"loss_box": 2.5}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "not_finite.pth"
    torch.save(STEP, path)
    return str(path)


def answer(monkeypatch, losses, non_finite):
    """What the replay of any step gives; the precisions that it was asked for."""
    asked = []

    def replay(content, precision):
        asked.append(precision)
        return losses, non_finite

    monkeypatch.setattr(command, "replay", replay)
    return asked


def test_losses_and_layers_are_printed(file, monkeypatch, capsys):
    asked = answer(monkeypatch, {"loss_box": math.nan}, ["output: rpn.conv is not finite"])
    assert run("replay", [file]) == 0
    out = capsys.readouterr().out
    for words in ("step 7, float32", "a.jpg, b.jpg", "nan", "2.5", "rpn.conv"):
        assert words in out
    assert "all values are finite" not in out
    assert asked == [None]


def test_a_step_that_is_finite_here_is_said_to_be(file, monkeypatch, capsys):
    answer(monkeypatch, {"loss_box": 2.5}, [])
    assert run("replay", [file]) == 0
    assert "all values are finite" in capsys.readouterr().out


def test_another_precision_can_be_asked_for(file, monkeypatch, capsys):
    asked = answer(monkeypatch, {"loss_box": 2.5}, [])
    assert run("replay", [file, "--precision", "bf16"]) == 0
    assert asked == ["bf16"]
    assert "step 7, bf16" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        run("replay", [file, "--precision", "float16"])
    assert ended.value.code == 2


def test_files_without_a_step_are_refused(tmp_path, capsys):
    assert run("replay", [str(tmp_path / "none.pth")]) == 2
    assert "none.pth" in capsys.readouterr().err
    for content in ({"model": {}}, {KEY: {}, "model": {}}, {"seed": 1}):
        torch.save(content, tmp_path / "best.pth")
        assert run("replay", [str(tmp_path / "best.pth")]) == 2
        assert "does not contain a training step" in capsys.readouterr().err


def test_a_file_is_wanted():
    with pytest.raises(SystemExit) as ended:
        run("replay", [])
    assert ended.value.code == 2
