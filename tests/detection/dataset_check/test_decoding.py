"""Pictures decoded by several processes, once: what a second look asks again, and a decoder that takes its process along."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.dataset_check.decoding import inspect_pictures
from detection.dataset_check.issues import Picture, inspect_picture


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path):
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 5 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    return sorted(str(path) for path in tmp_path.glob("*.png"))


def marking(file: str) -> Picture:
    """Decodes, and leaves a mark that it did."""
    with Path(file).with_suffix(".seen").open("a") as mark:
        mark.write("x")
    return inspect_picture(file)


def refused(file: str) -> Picture:
    """What a right that is missing gives; changing it changes neither the file's size nor its time."""
    return Picture(0, 0, "", False, "", "[Errno 13] Permission denied")


def dying(file: str) -> Picture:
    """Ends its process at two of the pictures, as a fault in a decoder or the lack of memory does."""
    if Path(file).name in ("07.png", "19.png"):
        os._exit(1)
    return inspect_picture(file)


def test_pictures_are_decoded_once_until_they_change(files, tmp_path):
    ticks = []
    first = inspect_pictures(files, "set", 2, lambda done, of: ticks.append((done, of)), marking)
    assert {Path(f).name: (p.height, p.width) for f, p in first.items()} == {
        f"{i:02d}.png": (6, 5 + i) for i in range(20)
    }
    assert ticks == [(i, 20) for i in range(1, 21)]
    assert inspect_pictures(files[:8], "set", 2, inspect=marking) == {f: first[f] for f in files[:8]}
    Image.new("L", (9, 9)).save(files[3])
    again = inspect_pictures(files, "set", 2, inspect=marking)
    assert (again[files[3]].height, again[files[3]].mode) == (9, "L")
    assert {Path(f).stem: len(Path(f).with_suffix(".seen").read_text()) for f in files} == {
        f"{i:02d}": 1 + (i == 3) for i in range(20)
    }


@pytest.mark.parametrize("damage", ["", "{", '{"format": 1, "pictures": [1]}', '{"format": 0, "pictures": {}}'])
def test_a_damaged_cache_counts_as_absent(files, tmp_path, damage):
    first = inspect_pictures(files[:2], "set", 1)
    (place,) = (tmp_path / "cache" / "annotations").glob("pictures-*.json")
    place.write_text(damage)
    assert inspect_pictures(files[:2], "set", 1) == first


def test_a_picture_at_which_the_decoder_dies_is_named_and_the_others_are_read(files, tmp_path):
    found = inspect_pictures(files, "set", 2, inspect=dying)
    assert sorted(found) == files
    assert [Path(f).name for f in files if found[f].error] == ["07.png", "19.png"]
    assert "died" in found[files[7]].error
    # it may have been for want of memory: the next time asks again
    assert not any(p.error for p in inspect_pictures(files, "set", 2).values())


def test_a_process_that_dies_between_pictures_is_replaced(files):
    def kill(done: int, of: int) -> None:
        if done == 8:
            time.sleep(0.5)  # what it was given is done
            for process in multiprocessing.active_children():
                process.kill()
                process.join()

    found = inspect_pictures(files, "set", 1, kill)
    assert sorted(found) == files
    assert not any(p.error for p in found.values())


def test_what_could_not_be_read_is_asked_for_again(files):
    assert all(p.error for p in inspect_pictures(files[:2], "set", 1, inspect=refused).values())
    assert not any(p.error for p in inspect_pictures(files[:2], "set", 1).values())


def test_what_an_impatient_user_waited_for_is_kept(files):
    def stop(done: int, of: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect_pictures(files, "set", 1, stop)
    left = []
    assert sorted(inspect_pictures(files, "set", 1, lambda done, of: left.append(of))) == files
    assert left == [12] * 12
