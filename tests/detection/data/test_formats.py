from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from detection.data import formats
from detection.data.annotations import Annotations, DataError
from detection.data.formats import get_format, open_split, register_format


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr(formats, "_REGISTERED", {})


def reader(root, split):
    Path(root).mkdir(exist_ok=True)
    Path(root, f"{split}.jpg").touch()
    return Annotations.from_arrays([f"{root}/{split}.jpg"], [[[1, 2, 3, 4]]], [[1]], ["cat"], sizes=[(5, 6)])


def test_a_registered_format_is_read_by_name(tmp_path):
    register_format("mine", reader)
    assert list(open_split("mine", tmp_path, "val").files) == [f"{tmp_path}/val.jpg"]


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    register_format("mine", reader)
    assert list(open_split("mine", "~/data", "val").files) == [f"{tmp_path}/data/val.jpg"]


def test_a_format_has_its_own_decoder_or_the_usual_one():
    grey = np.full((2, 2, 3), 7, dtype=np.uint8)
    register_format("raw", reader, read_image=lambda file: grey)
    register_format("usual", reader)
    assert get_format("raw").read_image("any") is grey
    with pytest.raises(FileNotFoundError):
        get_format("usual").read_image("none.jpg")


def test_the_last_of_a_name_counts(tmp_path):
    register_format("mine", lambda root, split: None)
    register_format("mine", reader)
    assert get_format("mine").read(tmp_path, "val").classes == ("cat",)


def test_images_without_a_file_are_left_out_and_named(tmp_path, caplog):
    (tmp_path / "b.jpg").touch()
    files = [f"{tmp_path}/{name}.jpg" for name in "abc"]
    boxes = [[[i, 2, 30, 40]] for i in range(3)]
    made = Annotations.from_arrays(files, boxes, [[1]] * 3, ["cat"], sizes=[(50, 60)] * 3)
    register_format("mine", lambda root, split: made)
    for annotations in (open_split("mine", tmp_path, "val"), get_format("mine").check(tmp_path, "val")):
        assert list(annotations.files) == files[1:2]
        assert annotations.boxes.tolist() == [[1, 2, 30, 40]]
        assert [(issue.kind, issue.found) for issue in annotations.issues] == [
            ("missing image", files[0]),
            ("missing image", files[2]),
        ]
    assert caplog.text.count("2 × missing image") == 1  # checking logs nothing
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"none of its 3 images exists"):
        open_split("mine", tmp_path, "val")
    register_format("drawn", lambda root, split: made, read_image=lambda file: None)  # whose images are no files
    assert len(open_split("drawn", tmp_path, "val")) == 3


def test_relative_boxes_are_refused(tmp_path):
    (tmp_path / "a.jpg").touch()
    made = Annotations.from_arrays([f"{tmp_path}/a.jpg"], [[[0.1, 0.2, 0.5, 1]]], [[1]], ["cat"], sizes=[(50, 60)])
    register_format("mine", lambda root, split: made)
    with pytest.raises(DataError, match="boxes look relative"):
        open_split("mine", tmp_path, "val")


def test_younger_names_may_be_taken(tmp_path):
    register_format("csv", reader)
    assert list(open_split("csv", tmp_path, "val").files) == [f"{tmp_path}/val.jpg"]
    assert not formats.is_built_in("csv")
    assert formats.is_built_in("yolo")


@pytest.mark.parametrize("name", ["auto", "coco", "voc", "shapes"])
def test_names_of_this_project_are_taken(name):
    with pytest.raises(ValueError, match=name):
        register_format(name, reader)


def test_an_unknown_format_names_the_nearest():
    register_format("openimages", reader)
    with pytest.raises(DataError, match="did you mean openimages") as found:
        get_format("openimage")
    for name in ("coco", "voc", "shapes"):
        assert name in str(found.value)
    with pytest.raises(DataError) as found:
        get_format("zzz")
    assert "did you mean" not in str(found.value)


def test_an_installed_package_brings_a_format(monkeypatch, tmp_path):
    entry = SimpleNamespace(name="theirs", load=lambda: reader)
    monkeypatch.setattr(formats, "entry_points", lambda group, name="theirs": [entry] if name == "theirs" else [])
    assert get_format("theirs").read(tmp_path, "val").classes == ("cat",)
    with pytest.raises(DataError, match="theirs"):
        get_format("other")
