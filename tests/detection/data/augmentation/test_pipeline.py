import numpy as np
import pytest
import torch

from detection.data.augmentation.pipeline import Augment


def test_albumentations_transforms_boxes_and_is_reproducible():
    augment = Augment([{"HorizontalFlip": {"p": 1.0}}, {"RandomBrightnessContrast": {"p": 1.0}}])
    image, boxes, labels = (
        torch.full((3, 10, 20), 100, dtype=torch.uint8),
        torch.tensor([[1.0, 2, 4, 5]]),
        torch.tensor([3]),
    )
    a, b = augment(image, boxes, labels, 1), augment(image, boxes, labels, 1)
    torch.testing.assert_close(a[1], torch.tensor([[16.0, 2, 19, 5]]), atol=1e-4, rtol=0)
    assert torch.equal(a[0], b[0])
    assert a[2].tolist() == [3]
    assert not torch.equal(a[0], augment(image, boxes, labels, 2)[0])


def test_albumentations_crop_without_boxes():
    augment = Augment([{"Crop": {"x_min": 10, "y_min": 0, "x_max": 20, "y_max": 10}}])
    image, boxes, labels = augment(
        torch.zeros(3, 10, 20, dtype=torch.uint8), torch.tensor([[1.0, 2, 4, 5]]), torch.tensor([3]), 0
    )
    assert image.shape == (3, 10, 10)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


@pytest.mark.parametrize("wrong", [{"NoSuch": {}}, {"Crop": {"x_min": "a"}}, {"Compose": {}}])
def test_invalid_transforms_are_reported(wrong):
    with pytest.raises(ValueError, match=r"data.augment: .*" + next(iter(wrong))):
        Augment([wrong])


def boxed(box, size=(30, 50)):
    """A black image with a white box."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = 255
    return image, torch.tensor([box], dtype=torch.float32), torch.tensor([7])


def extent(image):
    """The box of all pixels that are not black."""
    rows, columns = (image > 0).any(0).any(1).nonzero()[:, 0], (image > 0).any(0).any(0).nonzero()[:, 0]
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"RandomHorizontalFlip": {"p": 1.0}}, [28, 4, 45, 20]),
        ({"RandomVerticalFlip": {"p": 1.0}}, [5, 10, 22, 26]),
        ({"torchvision.Pad": {"padding": [3, 1, 0, 0]}}, [8, 5, 25, 21]),
        ({"torchvision.CenterCrop": {"size": [20, 40]}}, [0, 0, 17, 15]),
        ({"torchvision.Resize": {"size": [60, 100], "interpolation": "nearest"}}, [10, 8, 44, 40]),
        ({"torchvision.RandomRotation": {"degrees": [90, 90], "expand": True}}, [4, 28, 20, 45]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_torchvisions_boxes_move_with_their_pixels(entry, wanted):
    image, boxes, labels = Augment([entry])(*boxed([5, 4, 22, 20]), 0)
    assert extent(image) == wanted
    np.testing.assert_allclose(boxes, [wanted], atol=1e-4)
    assert labels.tolist() == [7]
    assert type(image) is type(boxes) is torch.Tensor


def test_torchvision_crop_drops_what_is_outside():
    image, boxes, labels = boxed([5, 4, 22, 20])
    crop = Augment([{"torchvision.CenterCrop": {"size": [6, 4]}}])
    image, boxes, labels = crop(image, torch.cat((boxes, torch.tensor([[0.0, 0, 2, 2]]))), torch.tensor([7, 8]), 0)
    assert image.shape == (3, 6, 4)
    assert labels.tolist() == []
    assert boxes.shape == (0, 4)


def test_equal_seeds_repeat_and_torchs_own_generator_is_left_alone():
    augment = Augment([{"RandomIoUCrop": {}}, {"torchvision.ColorJitter": {"brightness": 0.5, "hue": 0.2}}])
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 60), np.uint8))
    args = (pixels, torch.tensor([[4.0, 5, 30, 33]]), torch.tensor([1]))
    state = torch.get_rng_state()
    first, again = augment(*args, 11), augment(*args, 11)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = [augment(*args, seed)[0] for seed in range(5)]
    assert len({(tuple(o.shape), int(o.sum())) for o in others}) == 5


def test_the_libraries_follow_each_other_in_the_order_listed():
    """A crop before a flip gives other boxes than behind it."""
    crop, turn = (
        {"albumentations.Crop": {"x_min": 0, "y_min": 0, "x_max": 30, "y_max": 30}},
        {"RandomHorizontalFlip": {"p": 1.0}},
    )
    image, boxes, _ = Augment([crop, turn])(*boxed([5, 4, 22, 20]), 0)
    assert (extent(image), boxes.tolist()) == ([8, 4, 25, 20], [[8, 4, 25, 20]])
    image, boxes, _ = Augment([turn, crop])(*boxed([5, 4, 22, 20]), 0)
    assert extent(image) == [28, 4, 30, 20]
    np.testing.assert_allclose(boxes, [[28, 4, 30, 20]], atol=1e-4)
    assert len(Augment([turn, turn, crop, crop, turn]).segments) == 3


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"ColorJitter": {}},
            "both libraries have ColorJitter: write albumentations.ColorJitter or torchvision.ColorJitter",
        ),
        ({"RandomHorizontalFlop": {}}, "did you mean RandomHorizontalFlip"),
        ({"albumentations.RandomIoUCrop": {}}, "albumentations has no transform 'RandomIoUCrop'"),
        ({"kornia.ColorJitter": {}}, "no library 'kornia'"),
        ({"torchvision.Compose": {}}, "Compose has no values"),
        ({"MixUp": {}}, "data.mixup mixes images"),
        ({"ToDtype": {"dtype": torch.float32}}, "gives torch.float32"),
        ({"ToPILImage": {}}, "gives Image in place of a uint8 image"),
        ({"FiveCrop": {"size": 8}}, "FiveCrop"),
        ({"torchvision.RandomCrop": {"sice": 3}}, "unexpected keyword argument 'sice'"),
    ],
)
def test_names_and_arguments_that_do_not_fit_are_one_message(entry, message):
    with pytest.raises(ValueError, match=message):
        Augment([entry])


def test_a_crop_larger_than_the_trial_image_is_accepted():
    assert len(Augment([{"torchvision.RandomCrop": {"size": 500}}]).segments) == 1
