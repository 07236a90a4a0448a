import numpy as np
import torch
from torch import nn

from detection.classification.views import SCALES, group_views, make_views, mean_probabilities

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

    first = [torch.tensor([[1.0, 2, 3], [0, 0, 0]])[:, :, None, None], torch.tensor([[3.0, 1, 1]])[:, :, None, None]]
    second = [torch.tensor([[0.0, 5, 1]])[:, :, None, None].expand(1, 3, 2, 2)]  # of another size
    groups, labels = group_views([(first, 4), (second, -1)])
    assert [(tuple(views.shape), owners.tolist()) for views, owners in groups] == [
        ((3, 3, 1, 1), [0, 0, 0]),
        ((1, 3, 2, 2), [1]),
    ]
    assert labels.tolist() == [4, -1]
    expected = torch.stack(
        [
            torch.stack([v.softmax(0) for v in (*first[0][:, :, 0, 0], first[1][0, :, 0, 0])]).mean(0),
            second[0][0, :, 0, 0].softmax(0),
        ]
    )
    torch.testing.assert_close(mean_probabilities(First(), groups, lambda x: x, torch.device("cpu")), expected)
