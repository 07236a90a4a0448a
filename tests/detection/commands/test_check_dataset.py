import json

import pytest
from PIL import Image

from detection.cli import run


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def coco(root, *boxes):
    """An image with these boxes."""
    (root / "val").mkdir()
    Image.new("RGB", (60, 40)).save(root / "val" / "a.png")
    annotations = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes, 1)]
    images = [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "val.json").write_text(json.dumps(content))


def go(root, *options):
    keys = ["data.format=coco", f"data.root={root}", "data.train=val", "data.val=null"]
    return run("check-dataset", ["--workers", "1", *options, *keys])


def test_a_data_set_without_faults(tmp_path, capsys):
    coco(tmp_path, *[[1, 1, 20, 20 + i] for i in range(10)])
    report = tmp_path / "report.json"
    assert go(tmp_path, "--json", str(report)) == 0
    assert json.loads(report.read_text())["faults"] == []
    assert str(report) in capsys.readouterr().out


@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_faults_that_lose_data_are_exit_code_1(tmp_path, capsys, quick):
    coco(tmp_path, [1, 1, 20, 20], [5, 5, 0, 9])
    assert go(tmp_path, *quick) == 1
    assert "degenerate box" in capsys.readouterr().out


def test_notes_are_not(tmp_path):
    coco(tmp_path, [50, 1, 20, 20], *[[1, 1, 20, 20 + i] for i in range(9)])
    report = tmp_path / "report.json"
    assert go(tmp_path, "--json", str(report)) == 0
    (fault,) = json.loads(report.read_text())["faults"]
    assert (fault["kind"], fault["object"], fault["drops"]) == ("box across the edge", "1", False)


def test_a_quick_check_decodes_no_image(tmp_path):
    coco(tmp_path, [1, 1, 20, 20])
    (tmp_path / "val" / "a.png").write_bytes(b"no image")
    assert go(tmp_path, "--quick") == 0
    assert go(tmp_path) == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["data.format=coc"], "coco"),
        (["data.format=shapes"], "synthetic"),
        (["data.root=none", "data.format=voc"], "none"),
        (["--config", "no_such"], "no_such"),
        (["data.rot=x"], "data.root"),
    ],
)
def test_errors_of_the_user(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("check-dataset", argv) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_exists_is_not_replaced(tmp_path, capsys):
    coco(tmp_path, [1, 1, 20, 20])
    report = tmp_path / "val.json"  # the annotations
    before = report.read_bytes()
    assert go(tmp_path, "--json", str(report)) == 2
    out, error = capsys.readouterr()
    assert "val.json already exists and is not replaced: give another --json" in error
    assert out == ""  # before the work
    assert report.read_bytes() == before
    assert go(tmp_path, "--json", str(tmp_path / "new" / "report.json")) == 0
