import numpy as np
import pytest
import torch

from detection.training.shapes_pretraining import augment, draw_crops, make_mosaics


def marked(boxes, side):
    """Return images [N, 3, side, side] that are 200 inside their box and 0 elsewhere."""
    images = torch.zeros(len(boxes), 3, side, side, dtype=torch.uint8)
    for image, (x1, y1, x2, y2) in zip(images, boxes.int().tolist(), strict=True):
        image[:, y1:y2, x1:x2] = 200
    return images


def box_of(image):
    y, x = (image[0] == 200).nonzero(as_tuple=True)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


BOXES = torch.tensor([[1.0, 2, 5, 9], [0, 0, 3, 1], [7, 6, 10, 10], [2, 4, 8, 5]])


@pytest.mark.parametrize("seed", range(12))
def test_boxes_rotate_with_their_images(seed):
    images, boxes = augment(marked(BOXES, 10), BOXES, torch.Generator().manual_seed(seed))
    images = 255 - images if images.max() == 255 else images
    assert [box_of(image) for image in images] == boxes.int().tolist()


def test_mosaics_tile_crops_row_by_row():
    labels = torch.tensor([3, 0, 1, 2])
    images, targets = make_mosaics(marked(BOXES, 10), labels, BOXES, 2)
    assert images.shape == (1, 3, 20, 20)
    assert torch.equal(images[0, :, :10, 10:], marked(BOXES, 10)[1])
    assert targets[0]["labels"].tolist() == [3, 1, 2]
    assert targets[0]["boxes"].tolist() == [[1, 2, 5, 9], [7, 16, 10, 20], [12, 14, 18, 15]]


def test_crops_depend_only_on_index_and_seed():
    images, labels, boxes = draw_crops(120, 36, seed=1, workers=1)
    again = draw_crops(110, 36, seed=1, workers=0)
    assert torch.equal(images[:110], again[0])
    assert torch.equal(boxes[:110], again[2])
    assert np.unique(labels).tolist() == list(range(7))
