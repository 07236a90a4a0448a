import json

import pytest
from scenes import det, truth

from detection.cli import run

A = [0, 0, 10, 10]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(truth((1, 1, A), (2, 1, A))))
    (tmp_path / "a.json").write_text(json.dumps([det(1, 1, A, 0.9)]))
    (tmp_path / "b.json").write_text(json.dumps([det(1, 1, A, 0.9), det(2, 1, A, 0.9)]))
    return tmp_path


def report(folder, *options, name="a"):
    return run("report", [str(folder / f"{name}.json"), str(folder / "truth.json"), *options])


def test_page_numbers_and_comparison(files, capsys):
    page, numbers = files / "new" / "r.html", files / "new" / "r.json"
    options = [
        "--output",
        str(page),
        "--json",
        str(numbers),
        "--compare",
        str(files / "b.json"),
        "--slice",
        "file_name",
    ]
    assert report(files, *options) == 0
    assert "MB" in capsys.readouterr().out
    content = json.loads(numbers.read_text())
    assert content["compare"][0]["name"] == "b"
    assert content["compare"][0]["metrics"]["AP50"]["difference"] < 0
    assert len(content["slices"]["file_name"]) == 2
    assert content["header"]["evaluator"].startswith("hotcoco")
    assert report(files, *options) == 2  # nothing is replaced


def test_requirements(files, capsys):
    assert report(files, "--require", "AP50>=0.5", "--require", "AP[cat]<=0.6", "--evaluator", "pycocotools") == 0
    assert report(files, "--require", "AP50>=0.9") == 1
    assert "AP50>=0.9: not met, it is 0.5050" in capsys.readouterr().err
    assert not (files / "report.html").exists()
    assert report(files, "--require", "AP50=0.9") == 2
    assert report(files, "--require", "mAP>=0.9") == 2


@pytest.mark.parametrize("options", [["--images", "-1"], ["--slice", "lens"], ["--compare", "none.json"]])
def test_bad_options(files, options):
    assert report(files, "--output", str(files / "r.html"), *options) == 2
