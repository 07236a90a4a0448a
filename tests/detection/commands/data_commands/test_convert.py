import json

import pytest
from PIL import Image

from detection.cli import run


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "val" / "a.png")
    annotations = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 20]}]
    images = [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}]
    (tmp_path / "val.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]})
    )
    return tmp_path


def convert(root, *options):
    return run("data", ["convert", *options, f"data.root={root}", "data.train=val", "data.val=null"])


@pytest.mark.parametrize("format", ["coco", "auto"])
def test_a_dataset_is_converted(dataset, capsys, format):
    out = dataset / "out"
    assert convert(dataset, "--to", "yolo", "--output", str(out), f"data.format={format}") == 0
    assert (out / "labels/train/a.txt").read_text() == "0 0.26666666666666666 0.3 0.5 0.5\n"
    assert f"data.format=yolo data.root={out} data.train=train data.val=null" in capsys.readouterr().out
    assert convert(dataset, "--to", "yolo", "--output", str(out), "data.format=coco") == 2
    assert "already exists" in capsys.readouterr().err


def test_a_split_that_is_not_there_is_one_message(dataset, capsys):
    assert run("data", ["convert", "--output", str(dataset / "out"), f"data.root={dataset}", "data.train=no"]) == 2
    assert "no COCO annotations for 'no'" in capsys.readouterr().err
