import pytest
import torch
from torchvision.transforms import functional

from backbone.recipe import RECIPES

CPU = torch.device("cpu")


def test_torchvisions_normalisation_by_hand():
    image = torch.tensor([0.485, 0.5, 1.0])[:, None, None]  # R at its mean
    got = RECIPES["torchvision"].normalise(image).flatten()
    wanted = torch.tensor([0.0, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)


def test_torchvisions_normalisation_equals_its_own():
    image = torch.rand(2, 3, 5, 4)
    wanted = functional.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(RECIPES["torchvision"].normalise(image), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "mean"), [("msra", (103.06, 115.90, 123.15)), ("detectron2", (103.53, 116.28, 123.675))]
)
def test_bgr_recipes_swap_channels_and_count_to_255(name, mean):
    red = torch.tensor([1.0, 0, 0])[:, None, None]
    got = RECIPES[name].normalise(red).flatten()
    torch.testing.assert_close(got, torch.tensor([-mean[0], -mean[1], 255 - mean[2]]))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_normalisation_inverts(name):
    recipe, image = RECIPES[name], torch.rand(3, 4, 5)
    scale, shift = recipe.affine(CPU)
    assert scale.dtype == shift.dtype == torch.float32
    assert scale.shape == shift.shape == (3, 1, 1)
    back = (recipe.normalise(image) - shift) / scale
    if recipe.channels == "BGR":
        back = back.flip(-3)
    torch.testing.assert_close(back, image, atol=1e-6, rtol=1e-5)
    assert recipe.name == name


def test_the_image_stays_and_an_affine_that_is_given_counts():
    recipe, image = RECIPES["torchvision"], torch.rand(3, 2, 2)
    before = image.clone()
    ones = torch.ones(3, 1, 1)
    assert torch.equal(recipe.normalise(image, (2 * ones, -ones)), 2 * image - 1)
    assert torch.equal(image, before)


def test_an_empty_batch_and_float64_keep_their_kind():
    assert RECIPES["msra"].normalise(torch.zeros(0, 3, 2, 2)).shape == (0, 3, 2, 2)
    assert RECIPES["msra"].normalise(torch.zeros(3, 2, 2, dtype=torch.float64)).dtype == torch.float64


def test_bottlenecks_stride_where_the_weights_were_trained_to():
    assert {name: (r.stride_in, r.stem_pool) for name, r in RECIPES.items()} == {
        "torchvision": ("3x3", "pad1"),
        "msra": ("1x1", "ceil"),
        "detectron2": ("1x1", "pad1"),
        "v1_rgb": ("1x1", "ceil"),
    }
