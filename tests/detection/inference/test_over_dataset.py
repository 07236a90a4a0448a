import dataclasses

import numpy as np
import pytest
import torch
from tiny import batch, detector, records
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from detection.data.loader import Batch
from detection.inference.over_dataset import as_rows, coco_results, detect, scale_back, validation_losses

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Finds the same box on every image; counts its passes in evaluation."""

    def __init__(self, box=(8.0, 16, 40, 48)):
        super().__init__()
        self.box, self.passes = box, []

    def forward(self, images):
        self.passes.append(self.training)
        return [
            {"boxes": torch.tensor([self.box]), "labels": torch.tensor([2]), "scores": torch.tensor([0.5])}
            for _ in images
        ]


def one(index, size=(48, 64), readable=True):
    """A batch of an image at 96 x 128 pixels."""
    return Batch([torch.zeros(3, 96, 128, dtype=torch.uint8)], [{}], [index], [size], [readable])


def test_boxes_return_to_the_original_image_and_stay_inside():
    boxes = torch.tensor([[10.0, 10, 20, 40], [-4, 0, 999, 999]])
    assert scale_back(boxes, (100, 200), (50, 400)).tolist() == [[20, 5, 40, 20], [0, 0, 400, 50]]
    assert scale_back(torch.zeros(0, 4), (100, 200), (50, 400)).shape == (0, 4)
    inside = boxes[:1]
    torch.testing.assert_close(scale_back(scale_back(inside, (100, 200), (37, 91)), (37, 91), (100, 200)), inside)


def test_rows_are_left_top_width_height_label_score():
    found = {"boxes": torch.tensor([[1.0, 2, 4, 8]]), "labels": torch.tensor([3]), "scores": torch.tensor([0.25])}
    rows = as_rows(found)
    assert rows.dtype == np.float64
    assert rows.tolist() == [[1, 2, 3, 6, 3, 0.25]]
    assert as_rows({key: value[:0] for key, value in found.items()}).shape == (0, 6)


def test_rows_are_raised_to_float64_on_the_cpu(monkeypatch):
    """Apple's GPU has no float64."""
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: self)
    with FakeTensorMode():
        boxes, labels = torch.rand(5, 4, device="cuda"), torch.ones(5, dtype=torch.int64, device="cuda")
        with OnlyFloat32():
            rows = as_rows({"boxes": boxes, "labels": labels, "scores": torch.rand(5, device="cuda")})
    assert (rows.device.type, rows.dtype) == ("cpu", torch.float64)


class OnlyFloat32(TorchDispatchMode):
    """Raise for float64 on a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            assert out.device.type == "cpu" or out.dtype != torch.float64, func
        return out


def test_results_have_category_ids_and_names_where_wanted():
    rows = np.array([[1.0, 2, 3, 6, 2, 0.25]])
    wanted = {"image_id": "x", "category_id": 90, "bbox": [1, 2, 3, 6], "score": 0.25}
    assert coco_results(rows, "x", (18, 90)) == [wanted]
    assert coco_results(rows, "x", (18, 90), ["cat", "dog"]) == [wanted | {"category_name": "dog"}]
    assert coco_results(np.zeros((0, 6)), "x", (18, 90)) == []


def test_images_come_once_in_the_records_order_in_their_own_pixels():
    model, ticks = Fixed().train(), []
    found = detect(model, [one(2), one(0), one(1)], records(), CPU, tick=lambda: ticks.append(1))
    assert [row["image_id"] for row in found] == [1, 2, 3]
    assert all(row["bbox"] == [4, 8, 16, 16] for row in found)  # half as large
    assert len(ticks) == 3
    assert model.passes == [False] * 3
    assert model.training


def test_unreadable_images_have_no_detections():
    ticks = []
    found = detect(Fixed(), [one(0), one(1, readable=False)], records(), CPU, tick=lambda: ticks.append(1))
    assert [row["image_id"] for row in found] == [1]
    assert len(ticks) == 2


def test_no_images_have_no_detections():
    assert detect(Fixed(), [], records(), CPU) == []
    assert validation_losses(Fixed(), [], CPU, 0) == {}


def test_the_mode_is_restored_after_an_error():
    model = Fixed().train()
    with pytest.raises(ValueError):
        detect(model, [one(0), Batch([torch.zeros(3, 4, 4)], [], [0, 1], [], [])], records(), CPU)
    assert model.training


def test_losses_are_means_over_images():
    class Sizes(nn.Module):
        """Its loss is the number of a batch's images."""

        def batch(self, images):
            return torch.stack(images)

        def losses(self, x, sizes, targets, generator):
            return {"loss_a": torch.tensor(float(len(x)))}

    # two images of loss 2, one of loss 1
    assert validation_losses(Sizes(), [batch(2), batch(1)], CPU, 0) == {"val_loss_a": pytest.approx(5 / 3)}


def test_unreadable_images_have_no_loss():
    class Mean(nn.Module):
        """Its loss is the mean of the images."""

        def batch(self, images):
            return torch.stack(images)

        def losses(self, x, sizes, targets, generator):
            return {"loss_a": x.mean()}

    full = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    both = Batch([full, full * 0], [{}] * 2, [0, 1], [(8, 8)] * 2, [True, False])
    assert validation_losses(Mean(), [both, one(2, readable=False)], CPU, 0) == {"val_loss_a": 1.0}
    assert validation_losses(Mean(), [one(2, readable=False)], CPU, 0) == {}


def test_validation_has_as_many_proposals_as_training():
    model, seen = detector().eval(), []
    proposals = model.rpn.proposals
    model.rpn.proposals = lambda *args, **options: seen.append(options) or proposals(*args, **options)
    validation_losses(model, [batch(1)], CPU, 0)
    assert seen == [{"for_losses": True}]
    model.rpn.test_limits = dataclasses.replace(model.rpn.test_limits, after_nms=1)
    model.rpn.train_limits = dataclasses.replace(model.rpn.train_limits, after_nms=7)
    output, sizes = model.rpn(model.trunk(model.batch([image.float() for image in batch(1).images]))), [(64, 64)]
    counts = [len(proposals(output, sizes, False, for_losses=v)[0]) for v in (None, False, True)]
    assert counts[:2] == [1, 1]
    assert 1 < counts[2] <= 7


def test_losses_of_a_detector_are_drawn_from_the_seed_alone():
    model = detector(batch_per_image=3).train()
    first, same, other = (validation_losses(model, [batch(2)], CPU, seed) for seed in (1, 1, 2))
    assert first == same != other
    assert set(first) == {"val_loss_objectness", "val_loss_rpn_box", "val_loss_classifier", "val_loss_box"}
    assert model.training
