import os
from pathlib import Path

import pytest

from detection.utils.atomic_io import replacing, sync


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
