import numpy as np
import torch
from torch import nn

from detection.classification.views import SCALES, make_views, mean_probabilities

PIXELS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def test_ten_views_equal_manual_crops():
    (views,) = make_views(PIXELS, "ten", None, 4)
    image = torch.from_numpy(PIXELS).permute(2, 0, 1)
    corners = [image[:, :4, :4], image[:, :4, 4:], image[:, 2:, :4], image[:, 2:, 4:], image[:, 1:5, 2:6]]
    assert views.shape == (10, 3, 4, 4)
    for crop in corners:
        assert any(torch.equal(crop, view) for view in views[:5])
        assert any(torch.equal(crop.flip(2), view) for view in views[5:])


def test_single_and_scales():
    (single,) = make_views(PIXELS, "single", None, 4)
    assert torch.equal(single[0], torch.from_numpy(PIXELS).permute(2, 0, 1)[:, 1:5, 2:6])
    assert [tuple(v.shape) for v in make_views(PIXELS, "scales", 5, 4)] == [(1, 3, s, int(s * 8 / 6)) for s in SCALES]


def test_mean_probabilities():
    class First(nn.Module):
        def forward(self, x):
            return x[:, :, 0, 0]

    views = [torch.tensor([[1.0, 2, 3], [0, 0, 0]])[:, :, None, None], torch.tensor([[3.0, 1, 1]])[:, :, None, None]]
    expected = torch.stack([v.softmax(0) for v in (*views[0][:, :, 0, 0], views[1][0, :, 0, 0])]).mean(0)
    torch.testing.assert_close(mean_probabilities(First(), views, lambda x: x, torch.device("cpu")), expected)
