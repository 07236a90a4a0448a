"""Decoding by several processes: the cache, and a decoder that kills its process."""

import functools
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.dataset_check import decoding
from detection.dataset_check.decoding import decode_images
from detection.dataset_check.issues import ImageInfo, decode_image


@pytest.fixture(autouse=True)
def separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path):
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 5 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    return sorted(str(path) for path in tmp_path.glob("*.png"))


def counting_decode(file: str) -> ImageInfo:
    """Decode, and append a mark for each call to a file next to the image."""
    with Path(file).with_suffix(".seen").open("a") as mark:
        mark.write("x")
    return decode_image(file)


@pytest.mark.slow  # spawned processes import everything again
def test_processes_can_be_spawned(files, monkeypatch):
    """As on Windows and macOS, where nothing is inherited."""
    context = multiprocessing.get_context("spawn")
    pool = functools.partial(decoding.ProcessPoolExecutor, mp_context=context)
    monkeypatch.setattr(decoding, "ProcessPoolExecutor", pool)
    results = decode_images(files[:3], "spawned", workers=1)
    assert [results[file].width for file in files[:3]] == [5, 6, 7]


def test_what_travels_to_a_process_is_picklable(files):
    task = pickle.loads(pickle.dumps((decoding._decode_chunk, decode_image, files[:2])))
    results = pickle.loads(pickle.dumps(task[0](*task[1:])))
    assert [result.width for result in results] == [5, 6]


def permission_denied(file: str) -> ImageInfo:
    """Return a permission error, which changes neither the file's size nor its modification time."""
    return ImageInfo(0, 0, "", False, "", "[Errno 13] Permission denied")


def crashing_decode(file: str) -> ImageInfo:
    """Exit the process at two of the images, as a decoder crash or the out-of-memory killer does."""
    if Path(file).name in ("07.png", "19.png"):
        os._exit(1)
    return decode_image(file)


def test_images_are_decoded_once_until_they_change(files, tmp_path):
    progress = []
    first = decode_images(files, "set", 2, lambda done, total: progress.append((done, total)), counting_decode)
    assert {Path(f).name: (p.height, p.width) for f, p in first.items()} == {
        f"{i:02d}.png": (6, 5 + i) for i in range(20)
    }
    assert progress == [(i, 20) for i in range(1, 21)]
    assert decode_images(files[:8], "set", 2, decode=counting_decode) == {f: first[f] for f in files[:8]}
    Image.new("L", (9, 9)).save(files[3])
    again = decode_images(files, "set", 2, decode=counting_decode)
    assert (again[files[3]].height, again[files[3]].mode) == (9, "L")
    assert {Path(f).stem: len(Path(f).with_suffix(".seen").read_text()) for f in files} == {
        f"{i:02d}": 1 + (i == 3) for i in range(20)
    }


@pytest.mark.parametrize("damage", ["", "{", '{"format": 1, "pictures": [1]}', '{"format": 0, "pictures": {}}'])
def test_corrupt_cache_is_ignored(files, tmp_path, damage):
    first = decode_images(files[:2], "set", 1)
    (path,) = (tmp_path / "cache" / "annotations").glob("pictures-*.json")
    path.write_text(damage)
    assert decode_images(files[:2], "set", 1) == first


def test_image_that_kills_the_decoder_is_reported(files, tmp_path):
    results = decode_images(files, "set", 2, decode=crashing_decode)
    assert sorted(results) == files
    assert [Path(f).name for f in files if results[f].error] == ["07.png", "19.png"]
    assert "died" in results[files[7]].error
    # it may have been out of memory, so the next call decodes it again
    assert not any(p.error for p in decode_images(files, "set", 2).values())


def test_worker_that_dies_between_images_is_replaced(files):
    def kill(done: int, total: int) -> None:
        if done == 8:
            time.sleep(0.5)  # its chunk is done
            for process in multiprocessing.active_children():
                process.kill()
                process.join()

    results = decode_images(files, "set", 1, kill)
    assert sorted(results) == files
    assert not any(p.error for p in results.values())


def test_errors_are_not_cached(files):
    assert all(p.error for p in decode_images(files[:2], "set", 1, decode=permission_denied).values())
    assert not any(p.error for p in decode_images(files[:2], "set", 1).values())


def test_results_are_cached_on_interrupt(files):
    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_images(files, "set", 1, stop)
    remaining = []
    assert sorted(decode_images(files, "set", 1, lambda done, total: remaining.append(total))) == files
    assert remaining == [12] * 12
