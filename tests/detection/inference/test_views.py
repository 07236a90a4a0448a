"""Views of an image: hand-worked flips and merging, and tiles as SAHI merges them."""

import numpy as np
import pytest

from detection.inference.detections import Detections
from detection.inference.interop import sahi_model
from detection.inference.views import Views, detect_augmented, detect_tiles, flipped, merge

CLASSES = ("cat", "dog")


def found(*rows):
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.array([r[5] for r in rows], np.float32), np.array([r[4] for r in rows], np.int64), CLASSES, (1, 2)
    )


def test_a_flipped_box_by_hand():
    assert flipped(found((10, 5, 30, 8, 1, 0.5)), 100).boxes.tolist() == [[70, 5, 90, 8]]
    assert len(flipped(found(), 100)) == 0


def test_merging_is_nms_by_class():
    result = merge([found((0, 0, 10, 10, 1, 0.6), (0, 0, 10, 10, 2, 0.5)), found((0, 0, 10, 9, 1, 0.9))], 0.5, 10)
    assert result.scores.tolist() == pytest.approx([0.9, 0.5])
    assert result.labels.tolist() == [1, 2]
    assert len(merge([result], 0.5, 1)) == 1
    assert len(merge([found()], 0.5, 5)) == 0


def test_every_scale_and_direction_is_asked():
    asked = []

    def detect(image, scale):
        asked.append((scale, int(image[0, 0, 0])))
        return found((0, 0, 10, 10, 1, 0.5 + scale / 10))

    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 9
    result = detect_augmented(detect, image, Views((1.0, 2.0), flip=True), 0.5, 100)
    assert asked == [(1.0, 0), (1.0, 9), (2.0, 0), (2.0, 9)]
    assert result.boxes.tolist() == [[0, 0, 10, 10], [30, 0, 40, 10]]
    assert result.scores.tolist() == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"scales": (0,)}, {"tile": 3}, {"overlap": 1.0}])
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match="got"):
        Views(**wrong)


def squares(image):
    """A detector of white squares at least 9 pixels from an edge of what it sees, by their columns of rows."""
    white = image[..., 0] > 128
    rows = []
    seen = white.copy()
    while seen.any():
        y, x = np.argwhere(seen)[0]
        h = int(np.argmin(np.append(seen[y:, x], False)))
        w = int(np.argmin(np.append(seen[y, x:], False)))
        seen[y : y + h, x : x + w] = False
        if max(image.shape[:2]) <= 120:  # too small in the whole image
            rows.append((x, y, x + w, y + h, 1, 0.5 + w * h / 10_000))  # a part of one is less sure
    return found(*rows)


def test_tiles_find_what_the_whole_image_is_too_large_for():
    image = np.zeros((300, 400, 3), np.uint8)
    wanted = [(10, 12, 30, 32), (90, 95, 110, 115), (350, 250, 380, 280), (200, 40, 215, 70)]
    for x1, y1, x2, y2 in wanted:
        image[y1:y2, x1:x2] = 255
    assert len(squares(image)) == 0
    tiled = detect_tiles(sahi_model(squares, CLASSES), image, Views(tile=100, overlap=0.3), found())
    assert len(tiled) == 4
    for box in wanted:
        assert np.abs(tiled.boxes - box).max(1).min() <= 1
    assert tiled.labels.tolist() == [1] * 4
    assert tiled.scores.tolist() == pytest.approx([0.59, 0.545, 0.54, 0.54])
