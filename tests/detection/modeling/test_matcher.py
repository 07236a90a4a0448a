import pytest
import torch
import torchvision.ops as ops
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher

import detection.modeling.matcher
from detection.modeling.matcher import Matcher

GROUND_TRUTH = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
# IoU with the first object: 1, 0.5, 0.25; with the second: 0.4; with none: 0
BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2.5], [20, 0, 30, 4], [50, 50, 60, 60]])


def test_computed_by_hand():
    index, label = Matcher(0.7, 0.3)(GROUND_TRUTH, BOXES)
    assert label.tolist() == [1, -1, 0, -1, 0]
    assert index[:4].tolist() == [0, 0, 0, 1]
    assert label.dtype == torch.int8
    # the second object's best box has IoU 0.4; it is kept, boxes without overlap are not
    assert Matcher(0.7, 0.3, keep_best=True)(GROUND_TRUTH, BOXES)[1].tolist() == [1, -1, 0, 1, 0]
    # Fast R-CNN: background only from 0.1 on
    assert Matcher(0.5, 0.5, background_low=0.1)(GROUND_TRUTH, BOXES)[1].tolist() == [1, 1, 0, 0, -1]


def test_all_ties_for_the_best_iou_are_kept():
    boxes = torch.tensor([[0.0, 0, 10, 5], [0, 5, 10, 10], [0, 0, 10, 2]])
    assert Matcher(0.7, 0.3, keep_best=True)(GROUND_TRUTH[:1], boxes)[1].tolist() == [1, 1, 0]


def test_no_objects_and_no_boxes():
    index, label = Matcher(0.5, 0.5, keep_best=True)(torch.zeros(0, 4), BOXES)
    assert label.tolist() == [0] * 5
    assert index.shape == (5,)
    assert Matcher(0.5, 0.5)(GROUND_TRUTH, torch.zeros(0, 4))[0].shape == (0,)


def crowd(n):
    corner = torch.rand(n, 2) * 200
    return torch.cat((corner, corner + torch.rand(n, 2) * 60 + 4), dim=1)


@pytest.mark.parametrize("keep_best", [False, True])
def test_equals_torchvision(keep_best):
    ground_truth, boxes = crowd(20), crowd(500)
    matches = TorchvisionMatcher(0.7, 0.3, keep_best)(ops.box_iou(ground_truth, boxes))
    index, label = Matcher(0.7, 0.3, keep_best=keep_best)(ground_truth, boxes)
    assert torch.equal(label.long(), expected(matches))
    assert torch.equal(index[label == 1], matches[matches >= 0])


def expected(matches):
    """torchvision packs -1 (background) and -2 (ignored) into the index."""
    return torch.where(matches >= 0, 1, torch.where(matches == -1, 0, -1))


def test_chunked_matching_equals_unchunked(monkeypatch):
    ground_truth, boxes = crowd(300), crowd(2000)
    whole = Matcher(0.6, 0.3, keep_best=True)(ground_truth, boxes)
    monkeypatch.setattr(detection.modeling.matcher, "MAX_PAIRS", 10_000)
    pieces = Matcher(0.6, 0.3, keep_best=True)(ground_truth, boxes)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_unordered_thresholds_raise():
    with pytest.raises(ValueError, match=r"got 0.0, 0.7, 0.3"):
        Matcher(0.3, 0.7)
