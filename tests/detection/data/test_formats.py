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


def test_the_last_of_a_name_counts():
    register_format("mine", lambda root, split: None)
    register_format("mine", reader)
    assert get_format("mine").read is reader


@pytest.mark.parametrize("name", ["coco", "voc", "shapes"])
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


def test_an_installed_package_brings_a_format(monkeypatch):
    entry = SimpleNamespace(name="theirs", load=lambda: reader)
    monkeypatch.setattr(formats, "entry_points", lambda group, name="theirs": [entry] if name == "theirs" else [])
    assert get_format("theirs").read is reader
    with pytest.raises(DataError, match="theirs"):
        get_format("other")
