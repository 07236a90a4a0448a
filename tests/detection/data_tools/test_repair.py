import json

import pytest
from own_data import coco_set

from detection.config import DataConfig
from detection.data import open as open_split
from detection.data.annotations import DataError
from detection.data_tools.repair import repair_dataset


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def config(tmp_path, objects=(["cat", "dog"], ["emu"])):
    root = coco_set(tmp_path / "set", list(objects))
    return DataConfig(format="coco", root=str(root), train="all", val=None)


def test_nothing_to_repair_is_a_copy(tmp_path):
    data = config(tmp_path)
    before = open_split("coco", data.root, "all")
    sets, to, _ = repair_dataset(data, tmp_path / "out")
    after = open_split(to, tmp_path / "out", "train")
    assert after.boxes.tolist() == before.boxes.tolist()
    assert after.classes == before.classes == sets["train"].classes


def test_classes_are_joined_and_keep_the_first_id(tmp_path):
    data = config(tmp_path)
    repair_dataset(data, tmp_path / "out", rename={"cat": "animal", "dog": "animal"})
    after = open_split("coco", tmp_path / "out", "train")
    assert (after.classes, after.category_ids) == (("animal", "emu"), (1, 3))
    assert after.labels.tolist() == [1, 1, 2]


def test_unknown_class(tmp_path):
    with pytest.raises(DataError, match="no class 'bird' to rename, there are cat, dog, emu"):
        repair_dataset(config(tmp_path), tmp_path / "out", rename={"bird": "emu"})


def test_what_stays_wrong_is_refused(tmp_path):
    data = config(tmp_path)
    path = tmp_path / "set" / "annotations" / "instances_all.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.1, 0.2, 0.2]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="boxes look relative"):
        repair_dataset(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    repair_dataset(data, tmp_path / "out", boxes="relative")
    boxes = open_split("coco", tmp_path / "out", "train").boxes
    assert boxes[0].tolist() == pytest.approx([6.4, 4.8, 19.2, 14.4])
