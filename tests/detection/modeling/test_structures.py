import pytest
import torch

from detection.modeling.structures import as_maps, check_images, check_targets

IMAGE = torch.zeros(3, 20, 30)


def target(boxes=((1.0, 2, 5, 6),), labels=(1,), dtype=torch.float32):
    return {"boxes": torch.tensor(boxes, dtype=dtype).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


def test_a_single_map_is_a_sequence_of_itself():
    x = torch.zeros(1, 2, 3, 3)
    assert as_maps(x)[0] is x
    levels = [x, x]
    assert as_maps(levels) is levels


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_float_images_of_different_sizes_pass(dtype):
    check_images([IMAGE.to(dtype), torch.zeros(3, 1, 1, dtype=dtype)])


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (IMAGE.byte(), TypeError, "image 1.*uint8.*255"),
        ([[0.0]], TypeError, "image 1.*list"),
        (torch.zeros(1, 3, 4, 4), ValueError, r"image 1.*\[1, 3, 4, 4\]"),
        (torch.zeros(1, 4, 4), ValueError, r"image 1.*\[1, 4, 4\]"),
        (torch.zeros(3, 0, 4), ValueError, r"image 1.*\[3, 0, 4\]"),
    ],
)
def test_the_first_wrong_image_is_named(image, error, words):
    with pytest.raises(error, match=words):
        check_images([IMAGE, image, IMAGE.byte()])


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        check_images([])


def test_right_targets_come_back_unchanged():
    targets = [target(), target((), ()), target(((0.0, 0, 1, 1), (2, 2, 9, 9)), (2, 1))]
    assert check_targets(targets, [IMAGE] * 3, 2) is targets


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (target(((5.0, 2, 5, 6),)), "target 1.*x1 < x2"),
        (target(((1.0, 6, 5, 2),)), "target 1.*x1 < x2"),
        (target(((1.0, 2, float("inf"), 6),)), "target 1.*boxes"),
        (target(((1.0, 2, float("nan"), 6),)), "target 1.*boxes"),
        (target(labels=(0,)), r"target 1.*1\.\.2"),
        (target(labels=(3,)), r"target 1.*1\.\.2"),
        (target(labels=(1, 1)), "target 1.*1 integer labels"),
        (target(dtype=torch.int64), "target 1.*float boxes"),
        ({"boxes": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}, "target 1.*float boxes"),
        ({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}, "target 1.*integer labels"),
    ],
)
def test_the_first_wrong_target_is_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        check_targets([target(), wrong], [IMAGE] * 2, 2)


def test_targets_are_as_many_as_images():
    with pytest.raises(ValueError, match="wants targets"):
        check_targets(None, [IMAGE], 2)
    with pytest.raises(ValueError, match="2 images but 1 targets"):
        check_targets([target()], [IMAGE] * 2, 2)
