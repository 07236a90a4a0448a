import dataclasses

import numpy as np
import pytest
import torch

from detection.classification.augmentation import TrainDataset, pca_lighting
from detection.classification.images import open_datasets


def test_a_batch_equals_its_samples(cifar):
    """In memory all at once, with colours one by one: bit for bit what each key gives alone."""
    train, _ = open_datasets(cifar)
    train.pixels[:] = np.random.default_rng(0).integers(0, 256, train.pixels.shape)
    keys = [(int(i), position) for position, i in enumerate(np.random.default_rng(1).integers(0, 15, 40))]
    for changes in ({}, {"crop": 24}, {"flip": 0.0}, {"jitter": 0.2, "lighting": 0.1}):
        dataset = TrainDataset(train, dataclasses.replace(cifar, **changes), seed=3)
        images, labels = dataset.__getitems__(keys)
        assert torch.equal(images, torch.stack([dataset[key][0] for key in keys]))
        assert labels.tolist() == [dataset[key][1] for key in keys]
    with pytest.raises(ValueError, match=r"an image of 32x32 is smaller than data\.crop=41"):
        TrainDataset(train, dataclasses.replace(cifar, crop=41), seed=3).__getitems__(keys)


def test_pad_crop_and_flip(cifar):
    """Every sample is a window of the padded image, flipped or not, and almost all windows occur."""
    train, _ = open_datasets(cifar)
    dataset = TrainDataset(train, cifar, seed=0)
    padded = np.pad(train.read(0), ((4, 4), (4, 4), (0, 0)))
    windows = {}
    for top in range(9):
        for left in range(9):
            window = padded[top : top + 32, left : left + 32]
            windows[window.tobytes()] = windows[window[:, ::-1].tobytes()] = (top, left)
    crops = {windows[dataset[0, position][0].permute(1, 2, 0).numpy().tobytes()] for position in range(600)}
    assert len(crops) > 70  # of 81
    image, label = dataset[4, 17]
    assert label == train.labels[4]
    assert torch.equal(image, TrainDataset(train, cifar, seed=0)[4, 17][0])  # depends on the position alone


def test_pca_lighting_adds_the_principal_components():
    grey = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    # the first axis is brightness: -0.5675 x 0.2175 x 255 = -31.5, -32.2, -32.4
    assert pca_lighting(grey, np.array([1.0, 0, 0]))[:, 0, 0].tolist() == [69, 68, 68]
    assert pca_lighting(grey, np.array([0, 1.0, 0]))[:, 1, 1].tolist() == [103, 100, 97]
    assert pca_lighting(grey, np.array([-9.0, 0, 0])).unique().tolist() == [255]


def test_lighting_is_constant_over_an_image(cifar):
    train, _ = open_datasets(cifar)
    plain = TrainDataset(train, cifar, seed=0)[0, 5][0].int()
    augmented = TrainDataset(train, dataclasses.replace(cifar, lighting=0.1), seed=0)[0, 5][0].int()
    inside = (plain > 60) & (plain < 190)
    shift = (augmented - plain).masked_fill(~inside, -1000)
    for channel in shift:
        values = channel[channel > -1000].unique()
        assert len(values) == 1
    assert (augmented != plain).any()
