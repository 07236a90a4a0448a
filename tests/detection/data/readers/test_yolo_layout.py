from pathlib import Path

import pytest

from detection.data.annotations import DataError
from detection.data.readers.yolo_layout import find_splits, read_layout, split_files, yaml_files


def put(root, *names, **texts):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, text in texts.items():
        (root / f"{name}.yaml").write_text(text)
    return root


def files(root, split):
    return [str(Path(f).relative_to(root)) for f in split_files(read_layout(root), split)[0]]


def test_names_as_list_and_dictionary(tmp_path):
    put(tmp_path, data="names: {1: b, 0: a, '2': 3}")
    assert read_layout(tmp_path).names == {0: "a", 1: "b", 2: "3"}
    put(tmp_path, data="names: [x, no]")
    assert read_layout(tmp_path).names == {0: "x", 1: "no"}


def test_yaml_files_without_names_are_others(tmp_path):
    put(tmp_path, args="lr: 3", broken="[")
    assert yaml_files(tmp_path) == []
    put(tmp_path, mine="names: [a]")
    assert [f.name for f in yaml_files(tmp_path)] == ["mine.yaml"]


def test_folders_lists_and_their_union(tmp_path):
    put(
        tmp_path,
        "images/a/2.jpg",
        "images/a/1.png",
        "images/a/x.txt",
        "images/b/3.jpg",
        data="train: [images/a, images/b]\nval: v.txt\nnames: [c]",
    )
    (tmp_path / "v.txt").write_text("images/b/3.jpg\r\n\n./images/a/1.png\n")
    assert files(tmp_path, "train") == ["images/a/1.png", "images/a/2.jpg", "images/b/3.jpg"]
    assert files(tmp_path, "val") == ["images/b/3.jpg", "images/a/1.png"]
    assert files(tmp_path, "val+b") == ["images/b/3.jpg", "images/a/1.png", "images/b/3.jpg"]
    assert find_splits(read_layout(tmp_path)) == ["train", "val"]


def test_lists_with_absolute_names_and_names_from_the_root(tmp_path):
    put(tmp_path, "images/a/1.jpg", "lists/x", data="path: .\ntrain: lists/t.txt\nval: lists/v.txt\nnames: [c]")
    (tmp_path / "lists/t.txt").write_text(f"{tmp_path}/images/a/1.jpg\n")
    (tmp_path / "lists/v.txt").write_text("data/images/a/1.jpg\n")  # as CVAT writes them
    assert files(tmp_path, "train") == files(tmp_path, "val") == ["images/a/1.jpg"]


def test_a_folder_of_images_and_labels_named_by_the_yaml(tmp_path):
    put(tmp_path, "train/images/1.jpg", data="train: train\nnames: [c]")
    assert files(tmp_path, "train") == ["train/images/1.jpg"]


def test_errors(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        read_layout(tmp_path / "none")
    put(tmp_path, data="train: x\nnames: [c]")
    with pytest.raises(DataError, match=r"data\.yaml: train: x does not exist"):
        split_files(read_layout(tmp_path), "train")
