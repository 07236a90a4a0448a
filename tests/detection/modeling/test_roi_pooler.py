import pytest
import torch
from torchvision.ops import roi_align, roi_pool

from detection.modeling.roi_pooler import RoIPooler, as_regions


def ramp(size, stride):
    """A map whose value at a cell's centre is the pixel column there."""
    columns = (torch.arange(size) + 0.5) * stride
    return columns.expand(1, 1, size, size).contiguous()


def test_regions_carry_their_image():
    a, b = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[5.0, 6, 7, 8], [0, 0, 1, 1]])
    found = as_regions([a, torch.zeros(0, 4), b])
    assert found.tolist() == [[0, 1, 2, 3, 4], [2, 5, 6, 7, 8], [2, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("kind", "ratio", "aligned"),
    [("align", 0, True), ("align", 0, False), ("align", 2, True), ("align", 2, False), ("max", 0, False)],
)
def test_padded_pooling_of_a_pyramid_is_the_same(kind, ratio, aligned):
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, 3, 512 // s, 512 // s, generator=generator) for s in (4, 8, 16, 32)]
    corner = torch.rand(80, 2, generator=generator) * 400
    side = 8 * 100 ** torch.rand(80, 2, generator=generator)
    image = torch.randint(2, (80, 1), generator=generator)
    regions = torch.cat((image, corner, corner + side), dim=1)
    pooler = RoIPooler([4, 8, 16, 32], pool=kind, resolution=7, sampling_ratio=ratio, aligned=aligned)
    level = pooler.levels(regions[:, 1:])
    assert level.unique().tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(pooler(maps, regions, padded=True), pooler(maps, regions, padded=False), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("side", "level"), [(1, 0), (100, 0), (112, 1), (223, 1), (224, 2), (447, 2), (448, 3), (5000, 3)]
)
def test_a_box_of_224_px_is_pooled_from_stride_16(side, level):
    boxes = torch.tensor([[10.0, 10, 10 + side, 10 + side], [0, 0, 4 * side, side / 4]])
    assert RoIPooler([4, 8, 16, 32]).levels(boxes).tolist() == [level, level]  # by area, whatever the shape


def test_levels_count_from_the_finest_map():
    assert RoIPooler([8, 16]).levels(torch.tensor([[0.0, 0, 112, 112], [0, 0, 224, 224]])).tolist() == [0, 1]


def test_aligned_pooling_averages_the_bins_by_hand():
    regions = torch.tensor([[0.0, 16, 16, 48, 48]])  # columns 16..32 and 32..48
    pooled = RoIPooler([4], resolution=2)(ramp(16, 4), regions)
    assert pooled.shape == (1, 1, 2, 2)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[24.0, 40], [24, 40]]))


def test_max_pooling_takes_the_largest_of_a_bin():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 1, 2], x[0, 0, 6, 7] = 5.0, 3.0
    pooled = RoIPooler([1], pool="max", resolution=2)(x, torch.tensor([[0.0, 0, 0, 7, 7]]))
    assert pooled[0, 0].tolist() == [[5, 0], [0, 3]]


@pytest.mark.parametrize("kind", ["align", "max"])
def test_pooling_equals_torchvisions_at_every_second_bin(kind):
    x = torch.randn(2, 3, 20, 20)
    corner = torch.rand(9, 2) * 150
    regions = torch.cat((torch.arange(9)[:, None] % 2, corner, corner + 20 + torch.rand(9, 2) * 120), dim=1)
    wanted = roi_align(x, regions, 6, 1 / 16, 2, True) if kind == "align" else roi_pool(x, regions, 6, 1 / 16)
    pooler = RoIPooler([16], pool=kind, resolution=6, sampling_ratio=2, bin_stride=2)
    torch.testing.assert_close(pooler(x, regions), wanted[:, :, ::2, ::2], atol=1e-5, rtol=1e-5)


def test_no_regions_give_no_features():
    empty = as_regions([torch.zeros(0, 4)])
    assert RoIPooler([16], resolution=3)(torch.zeros(1, 2, 4, 4), empty).shape == (0, 2, 3, 3)
    pyramid = [torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)]
    assert RoIPooler([8, 16], resolution=3)(pyramid, empty, padded=False).shape == (0, 2, 3, 3)


@pytest.mark.parametrize("kind", ["align", "max"])
def test_double_stays_double(kind):
    torch.manual_seed(0)
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64) + torch.rand(1, 2, 8, 8, dtype=torch.float64) * 1e-9
    pooled = RoIPooler([4], pool=kind, resolution=2)(x, torch.tensor([[0.0, 0, 0, 31, 31]], dtype=torch.float64))
    assert pooled.dtype == torch.float64
    if kind == "max":  # the values themselves, not rounded to float32
        assert torch.isin(pooled, x).all()
