import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import Annotations
from detection.data_tools.folders import image_names, new_folder, place_images


def records(*files, folder=None, ids=None):
    boxes, labels = [[] for _ in files], [[] for _ in files]
    made = Annotations.from_arrays(files, boxes, labels, ["cat"], sizes=[(5, 6)] * len(files))
    return replace(made, folder=folder, image_ids=ids or list(range(len(files))))


def test_names_are_relative_and_differ_without_extension():
    assert image_names(records("/d/a.jpg", "/d/s/a.jpg", folder="/d")) == ["a.jpg", "s/a.jpg"]
    assert image_names(records("/d/a.jpg", "/d/a.png", "/d/A.jpg", folder="/d")) == ["a.jpg", "a_2.png", "A_3.jpg"]
    assert image_names(records("/d/x.1/a.b.jpg", ids=["x.1/a.b"])) == ["x.1/a.b.jpg"]
    assert image_names(records("/d/VOC2007/1.jpg", "/d/VOC2012/1.jpg")) == ["1.jpg", "1_2.jpg"]
    assert image_names(records("/d/../../etc/a.jpg", "/d/a\\b.jpg", folder="/d")) == ["a.jpg", "a/b.jpg"]


@pytest.mark.parametrize("how", ["link", "copy"])
def test_images_are_linked_or_copied(tmp_path, how, monkeypatch):
    Image.fromarray(np.zeros((5, 6, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    made = records(str(tmp_path / "a.png"), folder=str(tmp_path))
    place_images(made, ["s/b.png"], tmp_path / "out", how)
    placed = tmp_path / "out" / "s" / "b.png"
    assert placed.read_bytes() == (tmp_path / "a.png").read_bytes()
    assert os.path.samefile(placed, tmp_path / "a.png") == (how == "link")

    def refused(*_):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refused)
    place_images(made, ["b.png"], tmp_path / "other", how)
    assert (tmp_path / "other" / "b.png").is_symlink() == (how == "link")
    place_images(made, ["b.png"], tmp_path / "none", "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_is_whole_or_absent(tmp_path):
    def fail(path):
        with new_folder(path) as part:
            (part / "x").touch()
            raise ValueError

    with pytest.raises(ValueError):
        fail(tmp_path / "a" / "b")
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as part:
        (part / "x").touch()
    assert [p.name for p in (tmp_path / "empty").iterdir()] == ["x"]
    with pytest.raises(FileExistsError), new_folder(tmp_path / "empty"):
        pass
    (tmp_path / "c.part").mkdir()
    with pytest.raises(FileExistsError, match=r"c\.part already exists"), new_folder(tmp_path / "c"):
        pass
    assert (tmp_path / "c.part").is_dir()
