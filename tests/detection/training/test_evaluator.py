import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny import CLASSES, detector, pixels, records
from torch import nn

from detection.checkpoint.metadata import Classes
from detection.config import Config, DataConfig, SolverConfig
from detection.data.opening import Source
from detection.training.detection_module import DetectionModule
from detection.training.evaluator import Evaluator

# images are twice as large as annotated when the detector sees them
CONFIG = Config(data=DataConfig(format="shapes", short_side=(96,), max_side=128, workers=0))
CPU = torch.device("cpu")


class Oracle(nn.Module):
    """Gives each image's ground truth, moved by ``shift`` pixels of the resized image."""

    roi_head = SimpleNamespace(max_detections=100)

    def __init__(self, truth, shift=0.0):
        super().__init__()
        self.truth, self.shift, self.image = truth, shift, 0

    def forward(self, images):
        where = self.truth.objects(self.image)
        self.image += 1
        boxes = torch.tensor(self.truth.boxes[where]).float() * 2 + self.shift
        labels = torch.tensor(self.truth.labels[where])
        return [{"boxes": boxes, "labels": labels, "scores": torch.ones(len(boxes))} for _ in images]


def evaluator(folder, config=CONFIG):
    return Evaluator(config, Source(None, records(), pixels), folder)


def test_the_ground_truth_itself_has_an_ap_of_one(tmp_path):
    one = evaluator(tmp_path)
    one.evaluate(Oracle(records()), CPU)
    assert one.report.metrics["AP"] == pytest.approx(1)
    assert json.loads((tmp_path / "metrics.json").read_text())["AP"] == pytest.approx(1)
    rows = json.loads((tmp_path / "detections.json").read_text())
    assert [(row["image_id"], row["category_name"]) for row in rows] == [(2, "cat"), (3, "cat"), (3, "dog")]
    assert rows[0]["bbox"] == [4, 4, 26, 36]  # in the original's pixels
    assert json.loads((tmp_path / "ground_truth.json").read_text()) == records().to_coco()
    assert not (tmp_path / "pictures").exists()  # until the weights are saved
    one.draw()
    assert Image.open(tmp_path / "pictures" / "00.png").size[0] > 64
    (tmp_path / "pictures" / "00.png").unlink()
    one.draw()  # once an evaluation
    assert not (tmp_path / "pictures" / "00.png").exists()


def test_boxes_that_are_a_quarter_off_lose_ap_at_high_thresholds(tmp_path):
    """Moved by 6 of 26 columns and of 36 rows: an IoU of 600 / (2 * 936 - 600) = 0.47."""
    one = evaluator(tmp_path)
    one.evaluate(Oracle(records(), shift=12.0), CPU)
    assert one.report.metrics["AP50"] == 0
    one.evaluate(Oracle(records(), shift=6.0), CPU)  # IoU 759 / 1113 = 0.68
    assert one.report.metrics["AP50"] == pytest.approx(1)
    assert one.report.metrics["AP75"] == 0


def test_no_detections_are_an_ap_of_zero(tmp_path):
    empty = dataclasses.replace(records(), offsets=records().offsets * 0)
    one = evaluator(tmp_path)
    one.evaluate(Oracle(empty), CPU)
    assert one.report.metrics["AP"] == 0
    assert json.loads((tmp_path / "detections.json").read_text()) == []


@pytest.mark.parametrize("val_loss", [True, False])
def test_losses_are_in_the_row_where_wanted(tmp_path, val_loss):
    config = dataclasses.replace(CONFIG, solver=SolverConfig(val_loss=val_loss))
    module = DetectionModule(detector(), config, Classes(CLASSES, (1, 2)))
    row = evaluator(tmp_path, config)(module)
    assert "AP" in row
    losses = {"val_loss_objectness", "val_loss_rpn_box", "val_loss_classifier", "val_loss_box"}
    assert losses & set(row) == (losses if val_loss else set())


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    one = evaluator(tmp_path)
    oracle = Oracle(records())
    one.evaluate(oracle, CPU)
    assert oracle.image == 1  # of three images ranks 0 and 1 have two and one
    one.draw()
    assert one.report is None
    assert list(tmp_path.iterdir()) == []
