from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from detection.config import DataConfig
from detection.data.annotations import Annotations
from detection.data.augmentation.mixing import PAD_VALUE, mixup, mosaic
from detection.data.loader import TrainSet, train_loader


def plain(value, size, box, label):
    """An image of one value with a brighter box."""
    image = torch.full((3, *size), value, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = value + 1
    return image, torch.tensor([box], dtype=torch.float32), torch.tensor([label])


class Fixed:
    """The numbers given, one call after the other."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def uniform(self, low, high, size=None):
        taken = self.numbers.pop(0)
        assert (np.asarray(taken) >= low).all()
        assert (np.asarray(taken) <= high).all()
        return np.asarray(taken) if size else taken

    def random(self):
        return self.numbers.pop(0)

    def integers(self, low, high):
        return self.numbers.pop(0)


def test_a_mosaic_worked_by_hand():
    """Side 40: A and B end above the centre (50, 30), the whole canvas of 80 is the window."""
    images = [
        plain(10, (40, 40), [0, 0, 40, 20], 1),  # at (10, -10): ten rows are lost
        plain(20, (20, 40), [4, 4, 20, 16], 2),  # at (50, 10): ten columns are lost
        plain(30, (80, 40), [0, 0, 40, 80], 3),  # fits as 40 x 20: at (30, 30)
        plain(40, (10, 20), [15, 0, 20, 10], 4),  # fits as 20 x 40: at (50, 30); its box begins at x 80
    ]
    image, boxes, labels = mosaic(images, 40, Fixed((1.25, 0.75), 0.5, (0.0, 0.0)))
    assert image.shape == (3, 80, 80)
    assert boxes.tolist() == [[10, 0, 50, 10], [54, 14, 70, 26], [30, 30, 50, 70]]
    assert labels.tolist() == [1, 2, 3]
    assert image[0, 5, 20] == 11
    assert image[0, 20, 60] == 21
    assert image[0, 12, 52] == 20
    assert image[0, 50, 40] == 31
    assert image[0, 40, 60] == 40
    assert image[0, 75, 5] == PAD_VALUE


def test_the_window_cuts_and_moves():
    """Four equal images of side 40 around the middle; s = 1: a window of 40 from (24, 16) on, moved by a tenth."""
    images = [plain(10 * k, (40, 40), [0, 0, 40, 40], k) for k in (1, 2, 3, 4)]
    image, boxes, labels = mosaic(images, 40, Fixed((1.0, 1.0), 1.0, (0.1, -0.1)))
    assert image.shape == (3, 40, 40)
    assert boxes.tolist() == [[0, 0, 16, 24], [16, 0, 40, 24], [0, 24, 16, 40], [16, 24, 40, 40]]
    assert labels.tolist() == [1, 2, 3, 4]
    assert [image[0, y, x].item() for y in (0, 39) for x in (0, 39)] == [11, 21, 31, 41]
    with pytest.raises(ValueError, match="4 images, got 2"):
        mosaic(images[:2], 40, None)


def test_a_mixup_worked_by_hand():
    """20 x 40 and a square, which fits as 20 x 20, half as large again is 30 x 30: ten rows are cut, ten columns padded."""
    first = plain(100, (20, 40), [0, 0, 10, 10], 1)
    second = plain(50, (60, 60), [0, 0, 60, 60], 2)
    image, boxes, labels = mixup(first, second, Fixed(1.5, 0.9, 4))
    assert boxes.tolist() == [[0, 0, 10, 10], [0, 0, 30, 20]]
    assert labels.tolist() == [1, 2]
    assert image[0, 5, 5] == (101 + 51) // 2
    assert image[0, 15, 15] == (100 + 51) // 2
    assert image[0, 5, 35] == (100 + PAD_VALUE) // 2
    second = plain(50, (60, 60), [0, 0, 30, 60], 2)
    _, boxes, _ = mixup(first, second, Fixed(1.0, 0.1))  # flipped
    assert boxes.tolist() == [[0, 0, 10, 10], [10, 0, 20, 20]]


CONFIG = DataConfig(short_side=(48,), max_side=200, workers=0)


def dataset(**options):
    """Six images of 40 x 60, one crowd region and one difficult object among their boxes."""
    count = 6
    boxes = [[[2, 2, 20, 20], [25, 5, 55, 35]] for _ in range(count)]
    records = Annotations.from_arrays(
        [str(i) for i in range(count)], boxes, [[1, 2]] * count, ["cat", "dog"], sizes=[(40, 60)] * count
    )
    records.crowd[1], records.difficult[3] = True, True

    def read(name):
        return np.random.default_rng(int(name)).integers(0, 256, (40, 60, 3), dtype=np.uint8)

    return TrainSet(records, read, replace(CONFIG, **options), seed=4)


@pytest.mark.parametrize(
    "options",
    [
        {"mosaic": 1.0},
        {"mixup": 1.0},
        {"mosaic": 0.5, "mixup": 0.5, "large_scale_jitter": (0.5, 1.5), "jitter_side": 64},
    ],
)
def test_samples_depend_on_seed_and_position_alone(options):
    first, second = dataset(**options), dataset(**options)
    samples = [first[2, position] for position in range(8)]
    for position in (5, 0, 7):
        image, target, *_ = second[2, position]
        assert torch.equal(image, samples[position][0])
        assert torch.equal(target["boxes"], samples[position][1]["boxes"])
    assert len({int(s[0].sum()) for s in samples}) == 8
    for image, target, index, size, _ in samples:
        assert (index, size) == (2, (40, 60))
        assert image.dtype == torch.uint8
        if "jitter_side" in options:
            assert image.shape == (3, 64, 64)
        assert len(target["boxes"]) == len(target["labels"])
        assert (target["boxes"][:, 2:] <= torch.tensor([image.shape[-1], image.shape[-2]])).all()
    loaded = [
        list(
            islice(
                train_loader(
                    dataset(**options, workers=n), 2, micro_batches=1, rank=0, world=1, seed=4, start=1, pin=False
                ),
                3,
            )
        )
        for n in (0, 1)
    ]
    for a, b in zip(*loaded, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))


def test_crowd_and_difficult_objects_are_left_out_of_other_images_too():
    """Image 0 has a cat alone and image 1 a cat alone: with them as the only ones, no dog may come."""
    data = dataset(mosaic=1.0)
    data._partners = np.array([0, 1])
    labels = torch.cat([data[i % 2, p][1]["labels"] for i, p in zip(range(20), range(20), strict=True)])
    assert set(labels.tolist()) == {1}


def test_without_them_nothing_is_drawn():
    plain_set, other = dataset(), dataset(mosaic=1e-9)
    for position in range(5):
        assert torch.equal(plain_set[1, position][0], other[1, position][0])
