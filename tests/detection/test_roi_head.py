import pytest
import torch

from detection.roi_head import RoIPooler, as_regions


def test_regions_carry_their_image():
    a, b = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[5.0, 6, 7, 8], [0, 0, 1, 1]])
    found = as_regions([a, torch.zeros(0, 4), b])
    assert found.tolist() == [[0, 1, 2, 3, 4], [2, 5, 6, 7, 8], [2, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("kind", "ratio", "aligned"),
    [("align", 0, True), ("align", 0, False), ("align", 2, True), ("align", 2, False), ("max", 0, False)],
)
def test_a_pyramid_without_choosing_gives_the_same(kind, ratio, aligned):
    """What runs on a GPU, where the regions of a level are not known without waiting."""
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, 3, 512 // s, 512 // s, generator=generator) for s in (4, 8, 16, 32)]
    corner = torch.rand(80, 2, generator=generator) * 400
    side = 8 * 100 ** torch.rand(80, 2, generator=generator)
    image = torch.randint(2, (80, 1), generator=generator)
    regions = torch.cat((image, corner, corner + side), dim=1)
    pooler = RoIPooler(kind, 7, [4, 8, 16, 32], ratio, aligned)
    level = pooler.levels(regions[:, 1:])
    assert level.unique().tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(pooler._all(maps, regions, level), pooler._chosen(maps, regions, level), rtol=0, atol=0)
