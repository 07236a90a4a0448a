import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from detection.classification.augmentation import TrainDataset
from detection.classification.config import ImageDataConfig
from detection.classification.images import EvalDataset, open_datasets
from detection.data.annotations import DataError


def test_cifar10_records(cifar):
    train, val = open_datasets(cifar)
    assert len(train) == 15
    assert train.labels.tolist()[:4] == [0, 1, 2, 1]
    assert val.labels.tolist() == [5, 6, 7]
    image = val.read(0)
    assert image.shape == (32, 32, 3)
    assert image[0, 1].tolist() == [1, (1024 + 1) % 251, (2048 + 1) % 251]
    assert image[1, 0].tolist() == [32, (1024 + 32) % 251, (2048 + 32) % 251]
    assert train.classes == tuple("0123456789")


def test_cifar10_class_names(cifar, tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (tmp_path / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert open_datasets(cifar)[0].classes == tuple(names)


def test_corrupt_or_missing_files_are_reported(cifar, tmp_path):
    (tmp_path / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"data_batch_3.bin of records of 3073 bytes, but it has 5 bytes"):
        open_datasets(cifar)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin .* does not exist; unpack cifar-10-binary.tar.gz"):
        open_datasets(cifar)


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for k, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(k + 1):
                pixels = rng.integers(0, 256, (40, 60 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return ImageDataConfig(root=str(tmp_path), crop=16, short_side=(20, 30), eval_short_side=24, workers=0)


def test_folders(folders):
    train, val = open_datasets(folders)
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 1]
    image, label = TrainDataset(train, folders, 0)[2, 5]
    assert image.shape == (3, 16, 16)
    assert image.dtype == torch.uint8
    assert label == 1
    assert EvalDataset(val, folders)[0][0].shape == (3, 16, 16)


def test_missing_folders(folders, tmp_path):
    with pytest.raises(DataError, match=r"expected .*/training/CLASS/image.jpg, .* no such folder"):
        open_datasets(dataclasses.replace(folders, train="training"))
    (tmp_path / "train" / "bird").mkdir()
    with pytest.raises(DataError, match="1 classes have no images: bird"):
        open_datasets(folders)
    Image.new("RGB", (50, 50)).save(tmp_path / "train" / "bird" / "a.png")
    with pytest.raises(DataError, match="different classes"):
        open_datasets(folders)


def test_corrupt_images(folders, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat" / "0.png").write_bytes(b"not an image")
    train, val = open_datasets(folders)
    _, label = TrainDataset(train, folders, 0)[0, 0]
    assert label == 1  # of the substitute image
    assert EvalDataset(val, folders)[0][1] == -1


def test_invalid_sizes_are_rejected(folders):
    train, _ = open_datasets(folders)
    with pytest.raises(ValueError, match=r"low >= data\.crop=16"):
        TrainDataset(train, dataclasses.replace(folders, short_side=(10, 20)), 0)
    small = TrainDataset(train, dataclasses.replace(folders, short_side=None, crop=50), 0)
    with pytest.raises(ValueError, match=r"an image of 40x60 is smaller than data\.crop=50"):
        small[0, 0]


def test_synthetic_images():
    config = ImageDataConfig(format="shapes", train="12", val="6", crop=32, short_side=None, eval_short_side=None)
    train, val = open_datasets(config)
    assert (np.bincount(train.labels) == 2).all()
    assert not np.array_equal(train.read(0), val.read(0))
    assert np.array_equal(train.subset(np.array([5, 3])).read(1), train.read(3))
    with pytest.raises(DataError, match="must be a number of images"):
        open_datasets(dataclasses.replace(config, val="some"))
