import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detection.data.transforms import Augment, clip_boxes, flip, output_size, resize


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((300, 1200), (333, 1333)),
        ((800, 800), (800, 800)),
        ((427, 640), (800, 1199)),
    ],
)
def test_output_size_rounds_as_detectron2(size, expected):
    assert output_size(*size, 800, 1333) == expected


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_output_size_respects_the_limits(height, width):
    h, w = output_size(height, width, 800, 1333)
    assert max(h, w) <= 1333
    assert min(h, w) <= 800
    assert min(h, w) == 800 or max(h, w) == 1333


def test_resize_equals_pillow():
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    image, boxes = resize(torch.from_numpy(pixels).permute(2, 0, 1), torch.tensor([[9.0, 6, 45, 60]]), 40, 1000)
    expected = np.asarray(Image.fromarray(pixels).resize((60, 40), Image.Resampling.BILINEAR)).astype(int)
    assert image.shape == (3, 40, 60)
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1
    torch.testing.assert_close(boxes, torch.tensor([[6.0, 4, 30, 40]]))


def test_flip_twice_is_identity():
    image, boxes = torch.rand(3, 5, 8), torch.tensor([[1.0, 2, 4, 5]])
    flipped = flip(image, boxes)
    assert flipped[1].tolist() == [[4, 2, 7, 5]]
    assert torch.equal(flipped[0][:, :, 0], image[:, :, -1])
    restored = flip(*flipped)
    assert torch.equal(restored[0], image)
    assert torch.equal(restored[1], boxes)


def test_flip_moves_boxes_with_their_objects():
    image = torch.zeros(3, 10, 20)
    image[:, 2:6, 3:9] = 1
    flipped, boxes = flip(image, torch.tensor([[3.0, 2, 9, 6]]))
    x1, y1, x2, y2 = boxes[0].int().tolist()
    assert flipped[:, y1:y2, x1:x2].min() == 1
    assert flipped.sum() == image.sum()


def test_clip_boxes_clips_and_drops():
    boxes, labels = clip_boxes(
        torch.tensor([[-5.0, 0, 5, 5], [30, 0, 40, 5], [1, 1, 1, 9]]), torch.tensor([1, 2, 3]), (10, 20)
    )
    assert boxes.tolist() == [[0, 0, 5, 5]]
    assert labels.tolist() == [1]


def test_albumentations_transforms_boxes_and_is_reproducible():
    augment = Augment([{"HorizontalFlip": {"p": 1.0}}, {"RandomBrightnessContrast": {"p": 1.0}}])
    image, boxes, labels = (
        torch.full((3, 10, 20), 100, dtype=torch.uint8),
        torch.tensor([[1.0, 2, 4, 5]]),
        torch.tensor([3]),
    )
    a, b = augment(image, boxes, labels, 1), augment(image, boxes, labels, 1)
    torch.testing.assert_close(a[1], torch.tensor([[16.0, 2, 19, 5]]), atol=1e-4, rtol=0)
    assert torch.equal(a[0], b[0])
    assert a[2].tolist() == [3]
    assert not torch.equal(a[0], augment(image, boxes, labels, 2)[0])


def test_albumentations_crop_without_boxes():
    augment = Augment([{"Crop": {"x_min": 10, "y_min": 0, "x_max": 20, "y_max": 10}}])
    image, boxes, labels = augment(
        torch.zeros(3, 10, 20, dtype=torch.uint8), torch.tensor([[1.0, 2, 4, 5]]), torch.tensor([3]), 0
    )
    assert image.shape == (3, 10, 10)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


@pytest.mark.parametrize("wrong", [{"NoSuch": {}}, {"Crop": {"x_min": "a"}}, {"Compose": {}}])
def test_invalid_transforms_are_reported(wrong):
    with pytest.raises(ValueError, match=r"data.augment: .*" + next(iter(wrong))):
        Augment([wrong])
