"""Thin detectors with spread scores, and their exported files, which tests share."""

import dataclasses
from pathlib import Path

import torch

from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import Classes
from detection.config import load_config
from detection.export import api, formats
from detection.modeling.build import build_model

CLASSES = ("crescent", "cross", "disc", "square", "star", "triangle")
KEYS = (
    "data.short_side=[64]",
    "data.max_side=96",
    "data.train=4",
    "data.val=3",
    "data.workers=0",
    "model.norm=bn",
    "model.conv5_norm=null",
    "model.freeze_at=0",
    "model.rpn.before_nms_test=40",
    "model.rpn.after_nms_test=20",
    "model.roi.max_detections=30",
)
PYRAMID = ("model.architecture=fpn", "model.anchors.sizes=[8,16,32,64,128]")


def save_random(path: Path, *keys: str) -> Path:
    """Write a detector that nobody trained, whose norms have statistics and whose outputs vary from place to place."""
    torch.manual_seed(0)
    config = load_config("quickstart.yaml", [*KEYS, *keys])
    model = build_model(config.model, len(CLASSES))
    image = torch.rand(3, 64, 96)
    spread(model, image)
    save_detector(path, model, config, Classes(CLASSES, (1, 2, 3, 4, 9, 6)))
    return path


@torch.no_grad()
def spread(model, image: torch.Tensor) -> None:
    """Give a detector's norms the statistics of an image, and its last layers weights that spread their outputs."""
    model.train()
    model.trunk(torch.stack([image, image.flip(1)]))
    model.eval()
    head = model.roi_head
    for layer, std in ((model.rpn.objectness, 1.0), (model.rpn.deltas, 0.3), (head.classes, 2.0), (head.deltas, 1.0)):
        seen = []
        handle = layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.std()))
        model([image])
        handle.remove()
        layer.weight.mul_(std / seen[0])


def export_all(weights: Path, folder: Path, size=None, batch=None) -> dict[str, Path]:
    """Write all three formats from one trace; return the files by format."""
    detector, config, classes = api.read_detector(weights)
    files = {}
    options = api.ExportOptions("onnx", size, batch)
    graph = api.prepare(detector, options, config)
    info = api.describe_export(detector, config, classes, options, graph.top)
    info = dataclasses.replace(info, command="resdet export")
    program = formats.trace(graph, info)
    onnx = formats.to_onnx(program, info)
    import openvino

    artefacts = {
        "torch-export": (program, "d.pt2"),
        "onnx": (onnx, "d.onnx"),
        "openvino": (openvino.Core().read_model(onnx.SerializeToString()), "d.xml"),
    }
    for target, (artefact, name) in artefacts.items():
        files[target] = folder / name
        formats.SAVERS[target](artefact, info, files[target])
    return files
