"""Run the scripts of docs/examples; each has at most 15 lines."""

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import SMALL, train

from detection import evaluate, load_config
from detection.cli import run
from detection.training import api

pytestmark = pytest.mark.usefixtures("thin_networks")
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
KEYS = [key for key in SMALL if not key.startswith(("data.train", "data.val"))]


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    def start(name, *arguments):
        # as it stands, but on small images
        small = [
            "data.short_side=[64]",
            "data.max_side=80",
            "model.roi.batch_per_image=8",
            "model.rpn.after_nms_train=20",
        ]
        monkeypatch.setattr(api, "load_config", lambda config, keys: load_config(config, [*keys, *small]))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        variables = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return variables, capsys.readouterr().out.strip().splitlines()

    return start


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_have_at_most_fifteen_lines(path):
    assert sum(bool(line.strip()) for line in path.read_text().splitlines()) <= 15


def test_custom_arrays(example, tmp_path):
    variables, out = example("own_arrays.py")
    assert variables["run"].metrics["AP50"] >= 0
    assert out[-1].startswith("squares ")
    logged = list(csv.DictReader(next((tmp_path / "squares" / "csv").rglob("metrics.csv")).open()))
    assert [row["step"] for row in logged if row.get("loss")] == ["5", "10", "15", "20"]
    assert any(key.startswith("lr-") for key in logged[0])


@pytest.mark.slow
def test_timm_with_fpn(example):
    pytest.importorskip("timm")
    variables, out = example("timm_fpn.py")
    assert len(variables["first"]) > 0
    assert out[-1].endswith("detections, equal")


def test_timm_with_c4(example):
    pytest.importorskip("timm")
    _, out = example("timm_c4.py")
    assert out[-1].startswith("TimmConv5 ")


def test_predict(example, tmp_path):
    assert train(tmp_path / "run", keys=["data.val=1", "solver.max_iter=2", "model.roi.score_threshold=0.0"]) == 0
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    _, out = example("predict.py", tmp_path / "run" / "best.pth", "photo.png")
    equal, count = out[-1].split()
    assert equal == "True"
    assert int(count) > 0


def test_custom_head(example):
    variables, _ = example("own_head.py")
    assert variables["loaded"].roi_head.classes.in_features == 64
    run = variables["run"]
    assert run.metrics["AP"] is not None
    assert evaluate(run.best, model=variables["model"]) == run.metrics


def test_custom_format_from_the_command_line(tmp_path, capsys):
    rng = np.random.default_rng(0)
    with (tmp_path / "all.csv").open("w") as file:
        file.write("file,name,x1,y1,x2,y2\n")
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
            file.write(f"{i}.png,{'cat' if i % 2 else 'dog'},5,6,50,60\n")
        file.write("3.png,cat,7,7,7,30\n")  # degenerate
    plugin = ["--import", str(EXAMPLES / "own_format.py")]
    data = ["data.format=csv", f"data.root={tmp_path}", "data.train=all", "data.val=all"]
    arguments = ["--config", "quickstart.yaml", "--output", str(tmp_path / "run"), *KEYS, *data, "solver.max_iter=2"]
    assert run("train", [*plugin, *arguments]) == 0
    assert (tmp_path / "run" / "metrics.json").exists()
    assert "1 degenerate" in (tmp_path / "run" / "log.txt").read_text()
    capsys.readouterr()
    assert run("check-dataset", [*plugin, "--quick", *data]) == 1
    assert "degenerate" in capsys.readouterr().out
    assert run("train", arguments[:4] + [key.replace("=csv", "=cvs") for key in arguments[4:]]) == 2
    assert "no data format 'cvs': did you mean csv?" in capsys.readouterr().err
