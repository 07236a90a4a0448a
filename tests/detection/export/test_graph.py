"""The graph for exporters gives the detector's own detections: another form of the same, held against the compact one."""

import pytest
import torch
from exports import PYRAMID, save_random

from detection import load_detector
from detection.export.api import reference
from detection.export.graph import DetectorGraph, clip_to
from detection.export.parity import compare

pytestmark = pytest.mark.usefixtures("thin_networks")


def as_list(graph, sizes=False):
    def run(images):
        size = [torch.tensor([list(image.shape[-2:])]) for image in images]
        outputs = [graph(image[None], *([s] if sizes else [])) for image, s in zip(images, size, strict=True)]
        return [{"boxes": b[0, : int(n)], "labels": k[0, : int(n)], "scores": s[0, : int(n)]} for b, k, s, n in outputs]

    return run


def images():
    generator = torch.Generator().manual_seed(1)
    sizes = [(64, 96), (75, 61), (33, 96), (96, 64)] * 2
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


@pytest.mark.parametrize(
    "keys",
    [
        (),
        ("model.architecture=dc5",),
        PYRAMID,
        ("model.roi.pool=max", "model.roi.sampling_ratio=0"),
        ("model.stride_in=1x1", "model.backbone=resnet18", "model.roi.min_size=4", "model.rpn.min_size=6"),
    ],
    ids=["c4", "dc5", "fpn", "max", "small"],
)
@torch.no_grad()
def test_detections_are_the_detectors(tmp_path, keys):
    model, _ = load_detector(save_random(tmp_path / "best.pth", *keys))
    graph = DetectorGraph(model).eval()
    parity = compare(reference(model), as_list(graph), images(), threshold=0.05, top=30)
    assert parity.faults == []
    assert parity.detections > 50
    # a batch padded beyond its image
    padded = as_list(
        lambda x, size: graph(torch.nn.functional.pad(x, (0, 128 - x.shape[3], 0, 128 - x.shape[2])), size), True
    )
    parity = compare(reference(model, (128, 128)), padded, images(), threshold=0.05, top=30)
    assert parity.faults == []


@torch.no_grad()
def test_nothing_found_is_a_count_of_zero_and_padding(tmp_path):
    model, _ = load_detector(save_random(tmp_path / "best.pth", "model.roi.score_threshold=1"))
    boxes, labels, scores, count = DetectorGraph(model, top=7)(images()[0][None])
    assert (boxes.shape, labels.shape, scores.shape, count.tolist()) == ((1, 7, 4), (1, 7), (1, 7), [0])
    assert not boxes.any()
    assert not scores.any()
    assert not labels.any()


@torch.no_grad()
def test_top_is_the_best_of_the_detections(tmp_path):
    model, _ = load_detector(save_random(tmp_path / "best.pth"))
    image = images()[0][None]
    whole, best = DetectorGraph(model)(image), DetectorGraph(model, top=4)(image)
    for a, b in zip(whole[:3], best[:3], strict=True):
        assert torch.equal(a[:, :4], b)
    assert DetectorGraph(model, top=400).top == 30


def test_boxes_are_cut_off():
    limits = torch.tensor([20.0, 10.0, 20.0, 10.0])
    boxes = torch.tensor([[-3.0, -4.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]])
    assert clip_to(boxes, limits).tolist() == [[0, 0, 20, 10], [1, 2, 3, 4]]
