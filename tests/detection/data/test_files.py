import os

import pytest

from detection.data.annotations import DataError
from detection.data.files import NearNames, in_threads, is_file, read_lines, stamp, walk


def test_what_is_not_there_is_no_file(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "none")
    assert is_file(tmp_path / "a")
    for name in ("none", "link", "x" * 300, "a\0b", "."):
        assert not is_file(tmp_path / name)


def test_folders_are_walked_in_order(tmp_path):
    for name in ("b.jpg", "sub/a.jpg", "sub/deep/c.jpg", "._b.jpg", "sub/._a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(walk(tmp_path)) == ["b.jpg", "sub/a.jpg", "sub/deep/c.jpg"]
    assert list(walk(tmp_path / "none")) == []


def test_linked_folders_are_followed_once(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a.jpg").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cam").symlink_to(tmp_path / "far")
    (tmp_path / "far/loop").symlink_to(tmp_path / "far")
    assert list(walk(tmp_path / "data")) == ["cam/a.jpg"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("A.JPG", "a.jpg"),
        ("..\\train\\b.jpg", "sub/b.jpg"),
        ("U\u0308bung.jpg", "\u00dcbung.jpg"),
        ("c.jpg", None),
    ],
)
def test_near_names(name, near):
    names = NearNames(["a.jpg", "sub/b.jpg", "\u00dcbung.jpg"])
    assert names(name) == near
    assert names.hint(name) == name if near is None else near in names.hint(name)


def test_hints_say_unicode_forms_and_cut_long_names():
    assert "another Unicode form" in NearNames(["\u00e9.jpg"]).hint("e\u0301.jpg")
    assert len(NearNames([]).hint("x" * 5000)) < 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lists_are_read_by_their_mark(tmp_path, encoding):
    (tmp_path / "train.txt").write_text("größe\nb\n", encoding=encoding)
    assert read_lines(tmp_path / "train.txt") == ["größe", "b"]


def test_another_encoding_is_refused_by_line(tmp_path):
    (tmp_path / "train.txt").write_bytes("a\nb\ngröße\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.txt, line 3: not UTF-8 \(byte 0xf6\)"):
        read_lines(tmp_path / "train.txt")
    assert os.listdir(tmp_path) == ["train.txt"]


def test_threads_keep_the_order():
    assert in_threads(lambda x: x * 2, range(2000)) == [x * 2 for x in range(2000)]
    assert in_threads(str, []) == []


def test_stamps(tmp_path):
    (tmp_path / "a").write_text("abc")
    assert stamp(tmp_path / "a")[0] == 3
    for name in ("none", "a\0b", "x" * 5000):
        assert stamp(f"{tmp_path}/{name}") is None
