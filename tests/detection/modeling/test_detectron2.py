"""Equality with detectron2 on small networks, by its stored results: references/detectron2_*.json.

They were computed with detectron2 (main of 2025, commit 02b5c4e) on torch 2.15, one thread, detections in float32 and losses in float64, from the configurations
COCO-Detection/faster_rcnn_R_50_{C4,DC5,FPN}_1x with STEM_OUT_CHANNELS 8, RES2_OUT_CHANNELS 32, WIDTH_PER_GROUP 8,
NUM_CLASSES 5, FPN.OUT_CHANNELS 16, ROI_BOX_HEAD.FC_DIM 32, BATCH_SIZE_PER_IMAGE 32 (RoIs), and the weights, images and
samples of this file: ``subsample_labels`` was replaced by the first positions, as ``FirstSampler`` does here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backbone import ResNet
from backbone.blocks import Bottleneck
from detection import load_config, load_weights
from detection.checkpoint.keys import from_detectron2, to_detectron2
from detection.modeling.build import assemble

CLASSES = 5
SIZES = ((96, 128), (120, 100))
BOXES = ([[10.0, 12, 60, 70], [50, 20, 120, 90], [5, 5, 25, 30]], [[20.0, 30, 95, 110]])
LABELS = ([3, 5, 1], [2])
DEPTHS = (3, 4, 6, 3)
CONFIGS = {
    "c4": "faster_rcnn_r50_c4_1x.yaml",
    "dc5": "faster_rcnn_r50_dc5_1x.yaml",
    "fpn": "faster_rcnn_r50_fpn_1x.yaml",
}


# variance of the class layer's weights times their number, so that scores are neither all equal nor all 0 or 1
GAINS = {"c4": 0.4, "dc5": 2.0, "fpn": 0.001}


def make_weights(shapes, class_gain):
    """Return values for detectron2's keys, in key order, with a spread that makes detections distinct."""
    rng = np.random.default_rng(10)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        fan_in = int(np.prod(shape[1:])) or 1
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 1.5, shape)
        elif "norm.weight" in name:
            values = rng.uniform(0.4, 0.8, shape)
        elif name.endswith(("bias", "running_mean")):
            values = rng.normal(0, 0.1, shape)
        else:
            gain = (
                class_gain if "cls_score" in name else 0.02 if "bbox_pred" in name else 0.5 if "fpn_" in name else 1.0
            )
            gain = 0.01 if "anchor_deltas" in name or "objectness" in name else gain
            values = rng.normal(0, np.sqrt(gain / fan_in), shape)
        weights[name] = values.astype(np.float32)
    return weights


def make_image(i):
    """Return an RGB uint8 image [H, W, 3] of noise in three octaves."""
    rng = np.random.default_rng(100 + i)
    height, width = SIZES[i]
    octaves = [
        np.kron(rng.uniform(0, 85, (-(-height // s), -(-width // s), 3)), np.ones((s, s, 1))) for s in (4, 8, 32)
    ]
    return sum(o[:height, :width] for o in octaves).astype(np.uint8)


class FirstSampler:
    """A deterministic sampler: the first candidates of each kind."""

    def __init__(self, quota, fraction):
        self.quota, self.fraction = quota, fraction

    def __call__(self, label, generator=None):
        foreground = (label == 1).nonzero()[:, 0][: int(self.quota * self.fraction)]
        index = torch.cat((foreground, (label == 0).nonzero()[:, 0][: self.quota - len(foreground)]))
        return index, label[index]


@pytest.fixture(params=["c4", "dc5", "fpn"])
def case(request, tmp_path):
    """Return the detector with the weights, and detectron2's results."""
    name = request.param
    keys = ["model.fpn_channels=16", "model.roi.fc_channels=32"]
    config = load_config(CONFIGS[name], keys).model
    dilated = {"output_stride": 16, "dilate_first": True} if name == "dc5" else {}
    net = ResNet(
        Bottleneck,
        DEPTHS,
        widths=(8, 16, 32, 64),
        bottleneck_widths=(8, 16, 32, 64),
        stem_width=8,
        norm="frozen_bn",
        stride_in="1x1",
        freeze_at=2,
        **dilated,
    )
    model = assemble(net, config, CLASSES)
    weights = make_weights({k: tuple(v.shape) for k, v in to_detectron2(model.state_dict()).items()}, GAINS[name])
    torch.save({"model": {k: torch.from_numpy(v) for k, v in weights.items()}}, tmp_path / "model_final.pth")
    load_weights(model, tmp_path / "model_final.pth")
    answers = json.loads((Path(__file__).parent / "references" / f"detectron2_{name}.json").read_text())
    return model, answers


def images():
    return [torch.from_numpy(make_image(i)).permute(2, 0, 1).float() / 255 for i in range(2)]


def nearest(detections, expected):
    """Return for each expected detection the row with its label and the nearest box and score; and the expected boxes."""
    boxes, labels = torch.tensor(expected["boxes"]), torch.tensor(expected["labels"])
    scores = torch.tensor(expected["scores"])
    distance = (boxes[:, None] - detections["boxes"]).abs().amax(-1) + (
        scores[:, None] - detections["scores"]
    ).abs() * 1e4
    return (distance + 1e6 * (labels[:, None] != detections["labels"])).argmin(1), boxes


def test_proposals_and_detections(case):
    model, answers = case
    model.eval()
    with torch.no_grad():
        features = model.trunk(model.batch(images()))
        proposals = model.rpn.proposals(model.rpn(features), list(SIZES))
    detections = model(images())
    for i in range(2):
        expected = torch.tensor(answers["proposals"][i])
        assert len(proposals[i]) == answers["proposal_counts"][i]
        torch.testing.assert_close(proposals[i][: len(expected)], expected, rtol=0, atol=0.01)
        expected = answers["detections"][i]
        assert len(expected["labels"]) >= 5
        assert len(detections[i]["labels"]) == len(expected["labels"])
        # scores may differ by less than rounding, so that the order differs
        row, boxes = nearest(detections[i], expected)
        assert len(set(row.tolist())) == len(row)
        assert detections[i]["labels"][row].tolist() == expected["labels"]
        torch.testing.assert_close(detections[i]["boxes"][row], boxes, rtol=0, atol=0.01)
        torch.testing.assert_close(detections[i]["scores"][row], torch.tensor(expected["scores"]), rtol=0, atol=1e-5)


def test_losses_and_gradients(case):
    """In float64: a ReLU that is active in only one of the two changes gradients, in float32 by 1e-4."""
    model, answers = case
    model.double().train()
    model.rpn.anchors.float()  # detectron2's boxes are float32 throughout
    propose = model.rpn.proposals
    model.rpn.proposals = lambda *args, **how: [boxes.float().double() for boxes in propose(*args, **how)]
    model.rpn.sampler, model.roi_head.sampler = FirstSampler(256, 0.5), FirstSampler(32, 0.25)
    targets = [{"boxes": torch.tensor(b), "labels": torch.tensor(k)} for b, k in zip(BOXES, LABELS, strict=True)]
    losses = model([image.double() for image in images()], targets)
    for name, value in answers["losses"].items():
        assert float(losses[name].detach()) == pytest.approx(value, rel=1e-6), name
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: float(g.norm()) for name, g in to_detectron2(gradients).items()}
    assert norms.keys() == answers["gradient_norms"].keys()
    for name, value in answers["gradient_norms"].items():
        assert norms[name] == pytest.approx(value, rel=1e-6), name


def test_comparison_detects_a_wrong_background_row(case):
    """A wrong background row must make the comparison fail."""
    model, answers = case
    state = to_detectron2(model.state_dict())
    rows = state["roi_heads.box_predictor.cls_score.weight"]
    state["roi_heads.box_predictor.cls_score.weight"] = torch.roll(rows, 1, dims=0)
    model.load_state_dict(from_detectron2(state))
    detections = model.eval()(images())
    assert detections[0]["labels"].tolist() != answers["detections"][0]["labels"]
