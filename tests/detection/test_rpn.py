import pytest
import torch
from torchvision.ops import nms

from detection.rpn import best_apart


@pytest.mark.parametrize("limit", [1, 5, 40, 199, 200, 1000])
def test_looking_at_the_first_is_enough(limit):
    generator = torch.Generator().manual_seed(limit)
    for spread in (1.0, 30.0, 500.0):  # nearly all suppressed, some, hardly any
        corner = torch.rand(200, 2, generator=generator) * spread
        boxes = torch.cat((corner, corner + 20 + torch.rand(200, 2, generator=generator) * 30), dim=1)
        scores = torch.rand(200, generator=generator).sort(descending=True).values
        scores[50:60] = scores[50]  # ties
        assert torch.equal(best_apart(boxes, scores, 0.5, limit), nms(boxes, scores, 0.5)[:limit])


def test_no_boxes():
    assert len(best_apart(torch.zeros(0, 4), torch.zeros(0), 0.5, 10)) == 0
