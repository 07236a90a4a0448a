import pytest
from own_data import write_image

from detection.data.annotations import Annotations
from detection.dataset_check import near_duplicates
from detection.dataset_check.near_duplicates import near_across


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def images(folder, *seeds, quality=90):
    folder.mkdir()
    files = []
    for k, seed in enumerate(seeds):
        files.append(str(folder / f"{k}.jpg"))
        write_image(folder / f"{k}.jpg", seed, quality)
    none = [[] for _ in files]
    return Annotations.from_arrays(files, none, none, ["cat"])


def test_images_of_two_sets_that_look_the_same(tmp_path):
    train, val = images(tmp_path / "train", 1, 2, 3), images(tmp_path / "val", 9, 2, 2, 8, quality=60)
    issues = list(near_across({"train": train, "val": val}, "set"))
    assert [(issue.kind, issue.file) for issue in issues] == [
        ("image like another in train and val", val.files[1]),
        ("image like another in train and val", val.files[2]),  # its twin within val is no reason to leave it out
    ]
    assert f"looks like {train.files[1]} (train)" in issues[0].found
    assert list(near_across({"train": train, "val": val}, "set", {val.files[1], val.files[2]})) == []


def test_alike_within_one_set_alone_is_nothing(tmp_path):
    assert (
        list(near_across({"train": images(tmp_path / "train", 1, 1), "val": images(tmp_path / "val", 2)}, "set")) == []
    )
    assert list(near_across({"train": images(tmp_path / "only", 1, 1)}, "set")) == []


def test_large_sets_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_HASHED", 4)
    hashed = []
    original = near_duplicates.hash_images
    monkeypatch.setattr(
        near_duplicates, "hash_images", lambda files, *rest: hashed.extend(files) or original(files, *rest)
    )
    list(
        near_across({"train": images(tmp_path / "train", *range(6)), "val": images(tmp_path / "val", *range(4))}, "set")
    )
    assert len(hashed) == 4


def test_no_images(tmp_path):
    none = images(tmp_path / "train")
    assert list(near_across({"train": none, "val": none}, "set")) == []
