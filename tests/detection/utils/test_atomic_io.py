import json
import os
from pathlib import Path

import pytest

from detection.utils.atomic_io import replacing, require_new, sync, write_json, write_text


def fail(path, error):
    """Write a part of the file, and no more."""
    with replacing(path) as part:
        part.write_text("half")
        raise error


def test_a_file_is_replaced_when_all_went_well(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_is_absent_until_it_is_whole(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), OSError(28, "full")])
def test_an_error_leaves_the_file_as_it_was(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(type(error)) as found:
        fail(path, error)
    assert found.value is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_torchs_error_of_a_full_disk_becomes_an_oserror(tmp_path):
    with pytest.raises(OSError, match=r"a\.pth cannot be written"):
        fail(tmp_path / "a.pth", RuntimeError("PytorchStreamWriter failed"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_written_is_an_error_and_keeps_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_files_and_folders_sync(tmp_path):
    (tmp_path / "a").write_text("x")
    sync(tmp_path / "a")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "none")


def test_a_folder_that_cannot_sync_is_no_error_and_a_file_is(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError("not here")

    monkeypatch.setattr("os.fsync", refuse)
    (tmp_path / "a").write_text("x")
    sync(tmp_path)
    with pytest.raises(OSError, match="not here"):
        sync(tmp_path / "a")


def test_two_writers_of_a_shared_file_have_names_of_their_own(tmp_path):
    path = tmp_path / "a"
    with replacing(path, shared=True) as first, replacing(path, shared=True) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last to be renamed
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_whatever_the_locale(tmp_path):
    write_text(tmp_path / "a", "née 猫\r\n\ud800")
    assert (tmp_path / "a").read_bytes() == "née 猫\r\n".encode() + b"\\ud800"
    write_json(tmp_path / "b", {"name": "猫"}, indent=None)
    assert json.loads((tmp_path / "b").read_text(encoding="ascii")) == {"name": "猫"}


def test_json_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    write_json(tmp_path / "a", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a", [object()])
    assert json.loads((tmp_path / "a").read_text()) == [1]


def test_a_file_that_exists_is_refused_with_the_option_that_names_another(tmp_path):
    (tmp_path / "a").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "none")
    require_new([tmp_path / "b"], "--json FILE")
    for name in ("a", "link"):
        with pytest.raises(
            FileExistsError, match=rf"{name} already exists and is not replaced: give another --json FILE"
        ):
            require_new([tmp_path / "b", tmp_path / name], "--json FILE")


def test_windows_opens_no_folder_and_syncs_files_open_for_writing(tmp_path, monkeypatch):
    opened, there = {}, os.open

    def open_(path, flags, *args):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        handle = there(path, flags, *args)
        opened[handle] = flags & (os.O_WRONLY | os.O_RDWR)
        return handle

    def fsync(handle):
        if not opened[handle]:
            raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("os.open", open_)
    monkeypatch.setattr("os.fsync", fsync)
    with replacing(tmp_path / "a.json") as part:
        part.write_text("new")
    assert (tmp_path / "a.json").read_text() == "new"
    assert opened
