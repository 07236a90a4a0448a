import pytest
import torch

from detection.modeling.multi_scale import adjacent_scales

SCALES = (200, 400, 600, 800, 1000)
# side of a square at 600, and the pair of scales (appendix B: "one of the two adjacent scales" nearest to 224 pixels)
PAIRS = [
    *((10, (800, 1000)), (134, (800, 1000)), (150, (800, 1000)), (224, (600, 800)), (225, (400, 600))),
    *((336, (400, 600)), (337, (200, 400)), (672, (200, 400)), (1000, (200, 400))),
]


@pytest.mark.parametrize(("side", "pair"), PAIRS)
def test_a_region_is_pooled_from_the_scales_around_224_pixels(side, pair):
    boxes = torch.tensor([[5.0, 7, 5 + side, 7 + side], [5.0, 7, 5 + side * 2, 7 + side / 2]])
    ratios = torch.tensor([s / 600 for s in SCALES])[:, None, None].expand(-1, 2, 2)
    for first in adjacent_scales(boxes, ratios).tolist():
        assert (SCALES[first], SCALES[first + 1]) == pair


def test_one_scale_is_its_own_pair():
    assert adjacent_scales(torch.tensor([[0.0, 0, 9, 9]]), torch.ones(1, 1, 2)).tolist() == [0]
