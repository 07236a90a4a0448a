import numpy as np
import pytest
import torch

from detection.data.augmentation.jitter import PAD_VALUE, cut, large_scale_jitter, left_of, resize_to


class Fixed:
    """Numbers in place of random ones."""

    def __init__(self, scale, offset):
        self.scale, self.offset = scale, offset

    def uniform(self, low, high):
        assert low <= self.scale <= high
        return self.scale

    def random(self):
        return self.offset


def image_and_box(height, width, box):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = 255
    return image, torch.tensor([box], dtype=torch.float32), torch.tensor([3])


def test_a_smaller_image_is_padded():
    """20 x 40 at half of a side of 40: 10 x 20 in the corner of 40 x 40."""
    image, boxes, labels = large_scale_jitter(*image_and_box(20, 40, [8, 4, 24, 16]), (0.1, 2.0), 40, Fixed(0.5, 0.7))
    assert image.shape == (3, 40, 40)
    assert boxes.tolist() == [[4, 2, 12, 8]]
    assert labels.tolist() == [3]
    assert image[:, 3:7, 5:11].min() == 255
    assert image[:, :10, 13:20].max() < PAD_VALUE
    assert (image[:, 10:] == PAD_VALUE).all()
    assert (image[:, :, 20:] == PAD_VALUE).all()


def test_a_larger_image_is_cut_at_the_offset():
    """20 x 40 at twice a side of 40: 40 x 80, of which columns 20 to 60 are left at an offset of a half."""
    image, boxes, _ = large_scale_jitter(*image_and_box(20, 40, [8, 4, 24, 16]), (0.1, 2.0), 40, Fixed(2.0, 0.5))
    assert boxes.tolist() == [[0, 8, 28, 32]]  # 16 to 48 before the cut
    assert image[:, 10:30, 1:26].min() == 255
    assert image[:, :, 31:].max() == 0


def test_what_is_nearly_cut_away_is_dropped():
    boxes = torch.tensor([[-90.0, 0, 10, 10], [-91, 0, 9, 10], [-0.5, 0, 0.9, 10], [0, 0, 2, 10], [30, 30, 40, 40]])
    clipped, kept = cut(boxes, (20, 20))
    assert kept.tolist() == [True, False, False, True, False]  # a tenth of the area, and a pixel
    assert clipped[0].tolist() == [0, 0, 10, 10]
    assert left_of(boxes, boxes).all()


@pytest.mark.parametrize("seed", range(6))
def test_boxes_move_with_their_pixels(seed):
    image, boxes, _ = image_and_box(50, 90, [20, 10, 70, 40])
    out, new, labels = large_scale_jitter(image, boxes, torch.tensor([1]), (0.3, 2.0), 64, np.random.default_rng(seed))
    assert out.shape == (3, 64, 64)
    assert len(new) == len(labels) == 1
    white = (out[0] > 200).nonzero()
    low, high = white.min(0).values, white.max(0).values + 1
    found = torch.tensor([low[1], low[0], high[1], high[0]]).float()
    assert (found - new[0]).abs().max() <= 1.5


def test_an_image_of_its_size_stays():
    image, boxes = torch.rand(3, 5, 7), torch.rand(2, 4)
    assert resize_to(image, boxes, (5, 7))[0] is image
