import json

import pytest
from runs import train

from detection.cli import run
from detection.commands.diagnose import text


@pytest.fixture(scope="module")
def trained(tmp_path_factory, thin_networks):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(folder) == 0
    return folder


def test_writes_what_it_prints(trained, tmp_path, capsys):
    weights, out = str(trained / "best.pth"), tmp_path / "new" / "d.json"
    assert run("diagnose", ["--weights", weights, "--output", str(out), "--score", "0.01", "--images", "1"]) == 0
    result = json.loads(out.read_text())
    assert result["images"] == 1
    assert sum(result["stages"].values()) == result["missed"]
    assert text(result) in capsys.readouterr().out
    assert run("diagnose", ["--weights", weights, "--output", str(out)]) == 2  # nothing is replaced
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--images", "0"), ("--score", "1.5")])
def test_bad_numbers_are_refused(trained, option, value, capsys):
    assert run("diagnose", ["--weights", str(trained / "best.pth"), option, value]) == 2
    assert f"{option} wants" in capsys.readouterr().err


def test_a_report_of_the_run_has_the_stages(trained, tmp_path):
    page, numbers = tmp_path / "r.html", tmp_path / "r.json"
    arguments = [str(trained), "--weights", str(trained / "best.pth"), "--output", str(page), "--json", str(numbers)]
    assert run("report", arguments) == 0
    content = json.loads(numbers.read_text())
    assert content["diagnosis"]["objects"] == content["counts"]["objects"]
    assert content["training"]["step"] == [1, 2, 3, 4]
    assert content["drift"]["images"] == [6, 2]
    assert content["header"]["seed"] == 0


def test_nothing_missed_has_no_table():
    assert "0 of 0 objects" in text({"missed": 0, "objects": 0, "iou": 0.5, "score_threshold": 0.05, "stages": {}})
