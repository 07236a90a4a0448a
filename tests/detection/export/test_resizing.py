"""Resizing inside a graph: Pillow's and torchvision's bytes, and detections of originals."""

import numpy as np
import pytest
import torch
from exports import save_random

from detection import Predictor
from detection.data.transforms import output_size, resize
from detection.export.api import ExportOptions, export_detector
from detection.export.resizing import ResizingGraph

SIZES = [(50, 70), (70, 50), (64, 96), (201, 333), (31, 400), (64, 64), (640, 480), (7, 9)]


@pytest.mark.parametrize("size", SIZES)
def test_sides_are_those_of_the_predictor(size):
    for canvas in ((96, 96), (64, 96)):
        graph = ResizingGraph(None, 64, 96, canvas)
        assert graph.resized(torch.tensor(size).float()).tolist() == list(output_size(*size, 64, 96, canvas))


@pytest.mark.parametrize("size", SIZES)
def test_bytes_are_torchvisions(size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    pixels, _, resized = ResizingGraph(None, 64, 96, (96, 96)).resize(image[None])
    height, width = (int(side) for side in resized)
    wanted = resize(image, torch.zeros(0, 4), 64, 96)[0]
    levels = (pixels[0, :, :height, :width] * 255 - wanted).abs()
    assert levels.max() <= 1.001  # torchvision's weights are integers
    assert levels.mean() < 0.05
    assert not pixels[0, :, height:].any()
    assert not pixels[0, :, :, width:].any()


@pytest.mark.slow
@pytest.mark.usefixtures("thin_networks")
@pytest.mark.parametrize("target", ["onnx"])
def test_originals_of_any_size(tmp_path, target):
    weights = save_random(tmp_path / "best.pth")
    output = tmp_path / f"d.{ {'torch-export': 'pt2', 'onnx': 'onnx', 'openvino': 'xml'}[target] }"
    info = export_detector(weights, output, ExportOptions(target, resize=True))
    assert info.size == (96, 96)
    assert info.parity["detections"] > 50
    image = np.random.default_rng(0).integers(0, 256, (120, 150, 3), dtype=np.uint8)
    found = Predictor(output)(image)
    assert len(found) > 0
    assert found.boxes.max() > 96
