import pytest
import torch

from detection.export.parity import as_seen, check_images, compare

BOX = [[10.0, 10, 30, 40], [5, 5, 20, 25]]


def image(boxes=BOX, labels=(1, 2), scores=(0.9, 0.5)):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores, dtype=torch.float32),
    }


def go(found, wanted=None, threshold=0.05, top=100, count=8):
    images = [torch.zeros(3, 8 + i % 2, 8, dtype=torch.uint8) for i in range(count)]
    return compare(lambda _: [wanted or image()], lambda _: [found], images, threshold=threshold, top=top)


def test_equal_detections_have_no_faults():
    parity = go(image())
    assert (parity.faults, parity.images, parity.sizes, parity.detections) == ([], 8, 2, 16)
    assert (parity.box, parity.score, parity.borderline) == (0, 0, 0)
    assert "16 detections on 8 images of 2 sizes" in str(parity)


def test_order_does_not_matter_where_scores_are_equal():
    wanted = image(scores=(0.5, 0.5))
    assert go(image(BOX[::-1], (2, 1), (0.5, 0.5)), wanted).faults == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (image([[10.0, 10, 30, 40.02], BOX[1]]), "boxes differ by 0.02 px"),
        (image(scores=(0.9, 0.5002)), "scores by 0.0002"),
        (image(labels=(1, 3)), "lacks label 2"),
        (image(BOX[:1], (1,), (0.9,)), "lacks label 2"),
        (image([*BOX, [0, 0, 1, 1]], (1, 2, 2), (0.9, 0.5, 0.4)), "alone has label 2"),
        (image([], (), ()), "lacks label 1"),
        (image([[float("nan"), 10, 30, 40], BOX[1]]), "non-finite"),
    ],
)
def test_what_differs_is_a_fault(found, words):
    assert any(words in fault for fault in go(found).faults)


def test_differences_within_the_tolerances_are_reported():
    parity = go(image([[10.0, 10, 30, 40.008], BOX[1]], scores=(0.90005, 0.5)))
    assert parity.faults == []
    assert parity.box == pytest.approx(0.008, rel=1e-3)
    assert parity.score == pytest.approx(5e-5, rel=1e-2)


def test_one_at_the_threshold_may_be_missing():
    wanted = image(scores=(0.9, 0.05004))
    one = image(BOX[:1], (1,), (0.9,))
    assert go(one, wanted).borderline == 8
    assert go(one, wanted).faults == []
    assert go(one, image(scores=(0.9, 0.052))).faults
    # the last of those that are kept, too
    other = image([BOX[0], [50, 50, 60, 60]], (1, 2), (0.9, 0.50002))
    assert go(other, top=2).faults == []
    assert go(other, top=3).faults


def test_nothing_to_compare_is_a_fault():
    nothing = image([], (), ())
    assert "finds nothing" in go(nothing, nothing).faults[0]
    assert "wanted at least 8 images" in go(image(), count=7).faults[0]


def test_images_are_of_several_sizes_and_one_is_without_objects():
    images = check_images(64, 96)
    assert len(images) == 8
    assert len({x.shape for x in images}) >= 2
    assert [x.dtype for x in images] == [torch.uint8] * 8
    assert [i for i, x in enumerate(images) if (x == x[0, 0, 0]).all()] == [7]
    assert all(x.shape[1] <= 40 and x.shape[2] <= 50 for x in check_images(64, 96, (40, 50)))
    assert as_seen(images[0].permute(1, 2, 0).numpy(), 32, 96).shape[1:] == (32, 40)
