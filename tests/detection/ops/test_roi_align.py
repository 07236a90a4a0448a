import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align as reference

from detection.ops.roi_align import roi_align


def make_regions(count, images, generator, reach=200.0):
    """Return random regions, some across the image edges, outside, empty or degenerate."""
    corner = torch.rand(count, 2, generator=generator) * reach * 1.5 - reach * 0.25
    size = torch.rand(count, 2, generator=generator) ** 2 * reach
    size[::7] = 0
    size[3::11] = -5
    image = torch.randint(images, (count, 1), generator=generator).float()
    return torch.cat((image, corner, corner + size), dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize(("resolution", "bin_stride"), [(14, 1), (14, 2), (7, 1), (7, 2), (5, 3), (1, 1)])
def test_equals_torchvision(aligned, sampling_ratio, resolution, bin_stride):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 5, 11, 13, generator=generator, dtype=torch.float64)
    regions = make_regions(60, 2, generator).double()
    result = roi_align(features, regions, resolution, 1 / 16, sampling_ratio, aligned, bin_stride)
    expected = reference(features, regions, resolution, 1 / 16, sampling_ratio, aligned)[
        :, :, ::bin_stride, ::bin_stride
    ]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_gradient_equals_torchvision():
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 4, 9, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    regions = make_regions(40, 2, generator).double()
    direction = torch.randn(40, 4, 7, 7, generator=generator, dtype=torch.float64)
    (result,) = torch.autograd.grad((roi_align(features, regions, 14, 1 / 16, 0, True, 2) * direction).sum(), features)
    pooled = reference(features, regions, 14, 1 / 16, 0, True)[:, :, ::2, ::2]
    (expected,) = torch.autograd.grad((pooled * direction).sum(), features)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1 / 4, 1 / 16, 1.0]),
    st.integers(0, 3),
    st.booleans(),
)
def test_equals_torchvision_on_random_feature_maps(seed, height, width, scale, sampling_ratio, aligned):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, 3, height, width, generator=generator, dtype=torch.float64)
    regions = make_regions(12, 1, generator, reach=1.5 * max(height, width) / scale).double()
    result = roi_align(features, regions, 3, scale, sampling_ratio, aligned)
    torch.testing.assert_close(
        result, reference(features, regions, 3, scale, sampling_ratio, aligned), rtol=0, atol=1e-11
    )


def test_precision_and_empty_lists():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(1, 8, 20, 20, generator=generator)
    regions = make_regions(30, 1, generator, reach=300)
    expected = reference(features, regions, 14, 1 / 16, 0, True)
    torch.testing.assert_close(roi_align(features, regions, 14, 1 / 16, 0, True), expected, rtol=0, atol=2e-6)
    half = roi_align(features.bfloat16(), regions, 14, 1 / 16, 0, True)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.01, atol=0.03)
    assert roi_align(features, regions[:0], 14, 1 / 16, 0, True, 2).shape == (0, 8, 7, 7)
