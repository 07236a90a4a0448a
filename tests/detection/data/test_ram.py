import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from detection.config import DataConfig
from detection.data import ram
from detection.data.annotations import Annotations, DataError
from detection.data.image import UnreadableImage, read_image
from detection.data.loader import TrainSet, train_loader
from detection.data.ram import ImagesInMemory, available_memory


@pytest.fixture
def records(tmp_path):
    files = []
    for i in range(5):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(files[-1])
    return Annotations.from_arrays(files, [[[2, 2, 20, 20]]] * 5, [[1]] * 5, ["thing"])


def counting(path):
    """A reader that leaves a line for each image that it decodes, whichever process it runs in."""

    def read(file):
        with path.open("a") as log:
            log.write(file + "\n")
        return read_image(file)

    return read


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_and_each_image_is_decoded_once(records, tmp_path, workers):
    config = DataConfig(short_side=(32, 48), max_side=100, workers=workers)

    def batches(read):
        loader = iter(
            train_loader(
                TrainSet(records, read, config, 3), 2, micro_batches=1, rank=0, world=1, seed=3, start=0, pin=False
            )
        )
        return [next(loader) for _ in range(8)]

    reader = ImagesInMemory(counting(tmp_path / "log"), [records])
    assert reader.nbytes == 5 * 40 * 50 * 3
    reader.fill()
    reader.fill()
    for a, b in zip(batches(reader), batches(read_image), strict=True):
        assert a.index == b.index
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))
    assert sorted((tmp_path / "log").read_text().split()) == sorted(records.files)


def test_images_that_do_not_fit_are_refused_with_numbers(records, monkeypatch):
    monkeypatch.setattr(ram, "available_memory", lambda: 2**30)
    big = replace(records, sizes=np.full((5, 2), 10000))
    with pytest.raises(DataError, match=r"5 decoded images need 1.4 GiB, and 80% of the 1.0 GiB that are available"):
        ImagesInMemory(read_image, [big])
    assert ImagesInMemory(read_image, [records]).nbytes == 30000
    with pytest.raises(DataError, match="in 40000 processes"):
        ImagesInMemory(read_image, [records], processes=20000 * 2)
    assert ImagesInMemory(read_image, [records], channels=1).nbytes == 10000


def test_what_cannot_be_read_is_reported_when_asked_for(records):
    with open(records.files[2], "w") as file:
        file.write("no image")
    reader = ImagesInMemory(read_image, [records])
    reader.fill()
    with pytest.raises(UnreadableImage, match=r"2.png"):
        reader(records.files[2])
    with pytest.raises(ValueError, match="read-only"):
        reader(records.files[1])[0, 0, 0] = 1


def test_a_spawned_worker_is_refused(records):
    with pytest.raises(DataError, match=r"set data.workers=0"):
        pickle.dumps(ImagesInMemory(read_image, [records]))


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    assert available_memory() > 2**20
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    monkeypatch.setattr(ram, "_CGROUP", tmp_path)
    assert available_memory() == 600000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 600000
