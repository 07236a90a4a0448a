import numpy as np
import pytest

from detection.evaluation.visualize import BoxAnnotations, contact_sheet, draw, side_by_side


def grey(height, width, value=128):
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_draw():
    image = np.zeros((60, 80, 3), np.uint8)
    annotated = draw(image, BoxAnnotations([[10, 10, 40, 50]], [2], [0.75]), ["a", "b"])
    assert annotated.shape == image.shape
    assert annotated[30, 10].any()
    assert not image.any()
    pair = side_by_side(image, annotated, ("ground truth", "detections"))
    assert pair.shape[1] == 2 * 80 + 8
    assert contact_sheet([pair, image, annotated], columns=2).ndim == 3


def test_a_box_is_an_outline_in_its_classs_colour():
    drawn = draw(grey(200, 200), BoxAnnotations([[50, 60, 150, 160]], [1]), ["cat"])
    orange = [0xE6, 0x9F, 0x00]
    for y, x in ((100, 50), (100, 150), (160, 100)):
        assert drawn[y, x].tolist() == orange
    assert (drawn[70:150, 60:140] == 128).all()  # its inside
    assert (drawn[165:] == 128).all()
    other = draw(grey(200, 200), BoxAnnotations([[50, 60, 150, 160]], [2]), ["cat", "dog"])
    assert other[100, 50].tolist() == [0x56, 0xB4, 0xE9]


def test_the_first_box_is_on_top():
    boxes = [[50, 60, 150, 160]] * 2
    both = draw(grey(200, 200), BoxAnnotations(boxes, [1, 2]), ["aa", "bb"])
    first = draw(grey(200, 200), BoxAnnotations(boxes[:1], [1]), ["aa", "bb"])
    assert np.array_equal(both[60:], first[60:])


def test_scores_are_written():
    box, classes = [[50, 60, 150, 160]], ["cat"]
    without, low, high = (draw(grey(200, 200), BoxAnnotations(box, [1], s), classes) for s in (None, [0.25], [0.75]))
    assert not np.array_equal(without, low)
    assert not np.array_equal(low, high)
    assert np.array_equal(low[62:], high[62:])  # the text alone differs


@pytest.mark.parametrize(
    "box", [[50, 60, 40, 160], [50, 60, 150, 20], [float("nan"), 0, 9, 9], [0, 0, 9, float("nan")]]
)
def test_degenerate_boxes_are_left_out(box):
    assert np.array_equal(draw(grey(200, 200), BoxAnnotations([box], [1]), ["cat"]), grey(200, 200))


def test_no_boxes_give_a_copy():
    image = grey(20, 30)
    drawn = draw(image, BoxAnnotations([], []), [])
    assert np.array_equal(drawn, image)
    assert drawn is not image


def test_boxes_beyond_the_edge_do_not_change_the_size():
    assert draw(grey(40, 50), BoxAnnotations([[-20, -20, 90, 90]], [1]), ["cat"]).shape == (40, 50, 3)


def test_two_images_stand_side_by_side_below_their_titles():
    pair = side_by_side(grey(30, 40, 10), grey(30, 40, 20), ("a", "b"), gap=5)
    assert pair.shape == (50, 85, 3)
    assert (pair[20:, :40] == 10).all()
    assert (pair[20:, 45:] == 20).all()
    assert (pair[20:, 40:45] == 255).all()
    assert (pair[:20] < 255).any()  # the titles


def test_a_sheet_has_rows_of_images_of_any_size():
    sheet = contact_sheet([grey(10, 20, 1), grey(30, 10, 2), grey(5, 50, 3)], columns=2, gap=4)
    assert sheet.shape == (30 + 4 + 5, 50, 3)  # the last row is the widest
    assert (sheet[:10, :20] == 1).all()
    assert (sheet[:30, 24:34] == 2).all()
    assert (sheet[34:39, :50] == 3).all()
    assert int((sheet == 255).all(axis=2).sum()) == 39 * 50 - 200 - 300 - 250


def test_a_sheet_of_one_image_is_the_image():
    assert np.array_equal(contact_sheet([grey(6, 7)], columns=3), grey(6, 7))
