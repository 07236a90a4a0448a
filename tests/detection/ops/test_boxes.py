import torch
import torchvision.ops as ops
from hypothesis import given
from hypothesis import strategies as st

from detection.ops.boxes import area, clip, inside, iou, larger_than, xyxy_to_xywh

coordinate = st.floats(-50, 150, width=32)


@st.composite
def boxes(draw, max_size=8):
    n = draw(st.integers(0, max_size))
    rows = draw(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=n, max_size=n))
    corners = torch.tensor(rows, dtype=torch.float32).reshape(-1, 2, 2)
    return torch.cat((corners.amin(1), corners.amax(1)), dim=1)


@given(boxes(), boxes())
def test_iou_equals_torchvision(a, b):
    result, expected = iou(a, b), ops.box_iou(a, b)
    assert result.shape == (len(a), len(b))
    # torchvision's is nan where both boxes are empty
    torch.testing.assert_close(result, expected.nan_to_num(0), rtol=1e-5, atol=1e-6)


@given(boxes())
def test_clip_and_area_equal_torchvision(b):
    assert torch.equal(clip(b, (60, 80)), ops.clip_boxes_to_image(b, (60, 80)))
    torch.testing.assert_close(area(b), ops.box_area(b))
    assert torch.equal(iou(b, b), iou(b, b).T)


def test_computed_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[5.0, 5, 15, 15], [10, 0, 20, 10], [0, 0, 10, 10], [2, 2, 2, 8]])
    torch.testing.assert_close(iou(a, b), torch.tensor([[25 / 175, 0, 1, 0]]))
    assert larger_than(b, 0).tolist() == [True, True, True, False]
    assert larger_than(b, 10.5).tolist() == [False] * 4
    assert inside(b, (10, 15)).tolist() == [False, False, True, True]
    assert xyxy_to_xywh(b[:1]).tolist() == [[5, 5, 10, 10]]


def test_empty_boxes_keep_their_shape():
    none = torch.zeros(0, 4)
    assert iou(none, torch.ones(3, 4)).shape == (0, 3)
    assert iou(torch.ones(3, 4), none).shape == (3, 0)
    assert clip(none, (5, 5)).shape == (0, 4)
