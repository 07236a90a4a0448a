import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import DataError
from detection.data.files import stamp
from detection.data.readers import collect
from detection.data.readers.collect import (
    Collected,
    best_folder,
    cached_sizes,
    read_sizes,
    to_pixels,
)


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def test_sizes_of_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("detection.data.cache.MIN_SECONDS", 0)
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("x")
    files = [f"{tmp_path}/{name}.png" for name in "abc"]
    sizes, issues = read_sizes(files)
    assert sizes.tolist() == [[10, 20], [0, 0], [0, 0]]
    assert [i.kind for i in issues] == ["unreadable image", "missing image"]
    stamps = [stamp(f) for f in files]
    assert cached_sizes("x", files[:1], stamps[:1])[0].tolist() == [[10, 20]]
    monkeypatch.setattr(collect, "read_sizes", lambda files: pytest.fail("read again"))
    assert cached_sizes("x", files[:1], stamps[:1])[0].tolist() == [[10, 20]]


def test_the_folder_with_most_images(tmp_path):
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = [tmp_path / name for name in ("none", "a", "b")]
    assert best_folder(folders, ["1.jpg", "2.jpg"], "x") == tmp_path / "b"
    assert best_folder(folders, ["1.jpg"], "x") == tmp_path / "a"  # the first of several
    with pytest.raises(DataError, match=r"x: none of its images \(the first is 1\.JPG \(there is 1\.jpg\)\) found in"):
        best_folder(folders, ["1.JPG"], "x")


def test_fractions_to_pixels():
    boxes = np.array([[0, 0, 1, 1], [-4e-7, 0.1, 1.0000007, 0.3], [-0.1, 0.25, 0.5, 1.2], [1, 1, 1, 1]])
    assert to_pixels(boxes, np.array([[10, 20]] * 4)).tolist() == [
        [0, 0, 20, 10],
        [0, 1, 20, 3],
        [-2, 2.5, 10, 12],
        [20, 10, 20, 10],
    ]


def test_records_from_what_was_collected(tmp_path):
    for name in ("b.png", "a.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    collected = Collected("mine.csv")
    first, second = collected.image("b.png"), collected.image("a.png")
    collected.image("c.png")
    assert collected.image("b.png") == first
    collected.add(second, "dog", (1, 2, 3, 4), "line 1", crowd=True)
    collected.add(first, "cat", (0, 0, 5, 5), "line 2")
    collected.add(first, "cat", (0, 0, np.inf, 5), "line 3")
    collected.state(first, (20, 10))
    records = collected.build(tmp_path, None)
    assert list(records.image_ids) == ["b", "a"]
    assert (records.labels.tolist(), records.crowd.tolist()) == ([1, 2], [False, True])
    assert [records.object_name(j, i) for j, i in ((0, 0), (1, 1))] == ["line 2", "line 1"]
    assert [i.kind for i in records.issues] == ["non-finite box", "missing image", "another size stated"]
    assert [i.kind for i in collected.build(tmp_path, ["cat"]).issues][-1] == "unknown class"
