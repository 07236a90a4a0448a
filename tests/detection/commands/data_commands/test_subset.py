import json

import pytest
from PIL import Image

from detection.cli import run
from detection.data import open as open_split


@pytest.fixture
def keys(tmp_path):
    (tmp_path / "a").mkdir()
    images, annotations = [], []
    for i in range(1, 5):
        Image.new("RGB", (60, 40)).save(tmp_path / "a" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 40, "width": 60})
        annotations.append({"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [1, 2, 5 * i, 10]})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return [f"data.root={tmp_path}", "data.train=a", "data.val=null"]


@pytest.mark.parametrize(
    ("options", "images"),
    [
        (["--classes", "dog"], [1, 3]),
        (["--size", "11:"], [3, 4]),
        (["--number", "4"], [1, 2, 3, 4]),
        (["--files", "LIST"], [2]),
    ],
)
def test_parts(tmp_path, keys, options, images):
    (tmp_path / "list.txt").write_text("2.png\n\n")
    options = [str(tmp_path / "list.txt") if o == "LIST" else o for o in options]
    assert run("data", ["subset", *options, "--output", str(tmp_path / "out"), *keys]) == 0
    assert list(open_split("coco", tmp_path / "out", "train").image_ids) == images


def test_a_class_that_is_not_there(tmp_path, keys, capsys):
    assert run("data", ["subset", "--classes", "cow", "--output", str(tmp_path / "out"), *keys]) == 2
    assert "there are cat, dog" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
