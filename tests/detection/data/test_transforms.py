import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detection.data.transforms import clip_boxes, flip, output_size, resize


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
