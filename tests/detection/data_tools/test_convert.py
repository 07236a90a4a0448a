import json

import pytest
from PIL import Image

from detection.config import DataConfig
from detection.data.annotations import DataError
from detection.data_tools.convert import convert, open_splits


def coco(root, split, *classes):
    """A COCO split of one image with an object of each class."""
    (root / split).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(root / split / f"{split}.png")
    content = {
        "images": [{"id": 1, "file_name": f"{split}.png", "height": 40, "width": 60}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": [i, 1, 9, 9]} for i, _ in enumerate(classes, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
    (root / f"{split}.json").write_text(json.dumps(content))


def test_both_splits_become_train_and_val(tmp_path):
    coco(tmp_path, "a", "cat", "dog")
    coco(tmp_path, "b", "dog")
    config = DataConfig(format="coco", root=str(tmp_path), train="a", val="b")
    convert(config, "voc", tmp_path / "out")
    back = open_splits(DataConfig(format="voc", root=str(tmp_path / "out"), train="train", val="val"))
    assert {name: (len(r), r.classes) for name, r in back.items()} == {
        "train": (1, ("cat", "dog")),
        "val": (1, ("cat", "dog")),
    }
    assert back["val"].labels.tolist() == [2]


def test_what_training_refuses_is_not_converted(tmp_path):
    coco(tmp_path, "a", "cat")
    coco(tmp_path, "b", "cow")
    with pytest.raises(DataError, match="not among the classes"):
        convert(DataConfig(format="coco", root=str(tmp_path), train="a", val="b"), "coco", tmp_path / "out")
    assert not (tmp_path / "out").exists()
