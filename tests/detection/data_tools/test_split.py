import numpy as np
import pytest
from own_data import coco_set

from detection.config import DataConfig
from detection.data import open as open_split
from detection.data.annotations import DataError
from detection.data.splitting.split import read_split_file
from detection.data_tools.split import split_dataset

OBJECTS = [["cat"], ["dog"], ["cat", "dog"], []] * 5


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("to", [None, "voc"])
def test_parts_are_a_dataset_with_the_same_boxes(tmp_path, to):
    root = coco_set(tmp_path / "set", OBJECTS)
    config = DataConfig(format="coco", root=str(root), train="all")
    result = split_dataset(config, tmp_path / "out", val=0.2, test=0.2, to=to)
    assert result.format == (to or "coco")
    assert [len(result.parts[part]) for part in ("train", "val", "test")] == [12, 4, 4]
    whole = open_split("coco", root, "all")
    wanted = {whole.file_name(i): whole.boxes[whole.objects(i)] for i in range(len(whole))}
    for part in ("train", "val", "test"):
        records = open_split(result.format, tmp_path / "out", part)
        assert len(records) == len(result.parts[part])
        for i in range(len(records)):
            assert np.abs(records.boxes[records.objects(i)] - wanted[records.file_name(i)]).max(initial=0) < 0.01
    assert read_split_file(tmp_path / "out" / "split.json").about["seed"] == 0


def test_the_split_is_that_of_training_by_the_same_fractions(tmp_path):
    from detection.data.opening import open_source

    root = coco_set(tmp_path / "set", OBJECTS)
    config = DataConfig(format="coco", root=str(root), train="all", val="0.2")
    result = split_dataset(config, tmp_path / "out", val=0.2)
    assert list(result.parts["val"].files) == list(open_source(config).val.files)


@pytest.mark.parametrize(("val", "test"), [(0, 0), (0.5, 0.5), (1.5, 0), (-0.1, 0.2), (float("nan"), 0)])
def test_fractions_that_leave_nothing(tmp_path, val, test):
    with pytest.raises(DataError, match="leave images to train on"):
        split_dataset(DataConfig(root=str(tmp_path)), tmp_path / "out", val=val, test=test)


def test_nothing_is_replaced(tmp_path):
    root = coco_set(tmp_path / "set", OBJECTS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(FileExistsError):
        split_dataset(DataConfig(format="coco", root=str(root), train="all"), tmp_path / "out")
