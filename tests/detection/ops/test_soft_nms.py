import math

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_iou, nms

from detection.ops.soft_nms import soft_nms


def random_boxes(count, seed, spread=80.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * spread
    boxes = torch.cat((corner, corner + 10 + torch.rand(count, 2, generator=generator) * 30), dim=1)
    return boxes, torch.rand(count, generator=generator), torch.randint(1, 4, (count,), generator=generator)


def plain(boxes, scores, method, iou, sigma, threshold):
    """The paper's figure 2, a box at a time in float64, over one set."""
    overlaps = box_iou(boxes.double(), boxes.double()).numpy()
    left = {i: s for i, s in enumerate(scores.double().tolist()) if s > threshold}
    found = []
    while left:
        best = max(left, key=left.get)
        found.append((best, left.pop(best)))
        for i in list(left):
            o = overlaps[best, i]
            if method == "gaussian":
                left[i] *= math.exp(-(o**2) / sigma)
            elif o > iou:
                left[i] *= 0 if method == "hard" else 1 - o
            if left[i] <= threshold:
                del left[i]
    return found


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("agnostic", [True, False])
def test_random_boxes_equal_a_plain_reference(method, agnostic):
    for seed in range(5):
        boxes, scores, labels = random_boxes(70, seed)
        rows, final = soft_nms(
            boxes, scores, None if agnostic else labels, method=method, iou=0.3, limit=1000, sigma=0.4, threshold=0.05
        )
        sets = [torch.arange(70)] if agnostic else [(labels == k).nonzero()[:, 0] for k in (1, 2, 3)]
        wanted = [
            (int(index[i]), score)
            for index in sets
            for i, score in plain(boxes[index], scores[index], method, 0.3, 0.4, 0.05)
        ]
        wanted.sort(key=lambda pair: -pair[1])
        count = int((final > 0).sum())
        assert count == len(wanted)
        assert rows[:count].tolist() == [i for i, _ in wanted]
        np.testing.assert_allclose(final[:count], [s for _, s in wanted], rtol=1e-5)
        assert final[count:].eq(0).all()


def test_hard_is_torchvisions_nms():
    boxes, scores, labels = random_boxes(200, 9)
    for wanted, groups in ((nms(boxes, scores, 0.4), None), (batched_nms(boxes, scores, labels, 0.4), labels)):
        rows, final = soft_nms(boxes, scores, groups, method="hard", iou=0.4, limit=200)
        assert rows[final > 0].tolist() == wanted.tolist()
        assert torch.equal(final[final > 0], scores[wanted])
        first, _ = soft_nms(boxes, scores, groups, method="hard", iou=0.4, limit=7)
        assert first.tolist() == wanted[:7].tolist()


def test_two_boxes_worked_by_hand():
    """IoU 1/3: two boxes of 10 x 10 shifted by 5."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [100, 100, 110, 110]])
    scores = torch.tensor([0.9, 0.6, 0.5])
    linear = soft_nms(boxes, scores, None, method="linear", iou=0.3, limit=3)
    assert linear[0].tolist() == [0, 2, 1]
    assert linear[1].tolist() == pytest.approx([0.9, 0.5, 0.4])
    gaussian = soft_nms(boxes, scores, None, method="gaussian", iou=0.3, limit=3, sigma=0.5)
    assert gaussian[1].tolist() == pytest.approx([0.9, 0.5, 0.6 * math.exp(-2 / 9)])
    apart = soft_nms(boxes, scores, torch.tensor([1, 2, 1]), method="linear", iou=0.3, limit=3)
    assert apart[1].tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert soft_nms(boxes, scores, None, method="linear", iou=0.4, limit=3)[1].tolist() == pytest.approx(
        [0.9, 0.6, 0.5]
    )


def test_no_boxes_and_unknown_methods():
    rows, final = soft_nms(torch.zeros(0, 4), torch.zeros(0), None, method="gaussian", iou=0.5, limit=10)
    assert (len(rows), len(final)) == (0, 0)
    assert rows.dtype == torch.int64
    rows, final = soft_nms(torch.zeros(3, 4), torch.zeros(3), None, method="gaussian", iou=0.5, limit=2)
    assert final.tolist() == [0, 0]
    with pytest.raises(ValueError, match="hard, linear, gaussian, got 'soft'"):
        soft_nms(torch.zeros(0, 4), torch.zeros(0), None, method="soft", iou=0.5, limit=10)
