"""Benchmark exported detectors: parity with the detector, and speed beside it and torchvision's, all with random weights.

Every form runs in turn, one image each, so that drifts of the machine's speed affect all. With --weights the parity of a
trained detector is measured, and, with --int8-ap, AP of float32 and int8 on its validation set.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from detection.checkpoint.detector import load_detector, save_detector
from detection.checkpoint.metadata import Classes
from detection.config import load_config
from detection.export.api import ExportOptions, export_detector, reference, suffix_of
from detection.export.parity import check_images
from detection.inference.runtimes import ExportedDetector
from detection.modeling.build import build_model
from detection.training.api import evaluate

_TARGETS = ("torch-export", "onnx", "openvino")


def run(args: argparse.Namespace) -> int:
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = [args.weights] if args.weights else [random_detector(args, folder / "best.pth")]
        for path in weights:
            parity(args, path, folder)
            if args.int8_ap:
                int8_ap(path, folder)
        if not args.weights:
            speed(args, weights[0], folder)
    return 0


def random_detector(args: argparse.Namespace, path: Path) -> Path:
    """Write a detector with random weights whose scores vary over the image."""
    torch.manual_seed(0)
    name = f"faster_rcnn_{args.network.replace('resnet', 'r')}_{args.architecture}_1x.yaml"
    proposals = args.proposals or 300
    config = load_config(
        name,
        [
            f"data.short_side=[{min(args.size)}]",
            f"data.max_side={max(args.size)}",
            f"model.rpn.after_nms_test={proposals}",
            "model.norm=bn",
        ],
    )
    model = build_model(config.model, 80).eval()
    with torch.no_grad():
        images = torch.rand(1, 3, 256, 320)
        model.train()
        model.trunk(images)
        if isinstance(model.roi_head.head, torch.nn.Module) and args.architecture == "c4":
            model.roi_head.head(torch.rand(8, 1024, 7, 7))
        model.eval()
        for layer, std in ((model.rpn.objectness, 1.0), (model.roi_head.classes, 2.0), (model.roi_head.deltas, 0.1)):
            seen: list[float] = []
            handle = layer.register_forward_hook(lambda m, i, o, seen=seen: seen.append(float(o.std())))
            model([images[0]])
            handle.remove()
            layer.weight.mul_(std / seen[0])
    save_detector(path, model, config, Classes(tuple(f"class {i}" for i in range(80)), tuple(range(1, 81))))
    return path


def parity(args: argparse.Namespace, weights: Path, folder: Path) -> None:
    """Print the parity of every format; the files stay in ``folder``."""
    print("| file | images | sizes | detections | worst box (px) | worst score |\n|---|---|---|---|---|---|")
    for target in _TARGETS:
        size = None if args.dynamic else tuple(args.size)
        path = folder / f"{weights.stem}{suffix_of(target)}"
        info = export_detector(weights, path, ExportOptions(target, size if not args.weights else None))
        p = info.parity
        row = (target, p["images"], p["sizes"], p["detections"], f"{p['box']:.2g}", f"{p['score']:.2g}")
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def int8_ap(weights: Path, folder: Path) -> None:
    """Print AP of float32 and int8 on the detector's validation set."""
    before = evaluate(weights)["AP"]
    print("\n| int8 | AP float32 | AP int8 | difference |\n|---|---|---|---|")
    for target in ("openvino", "onnx"):
        path = folder / f"int8{suffix_of(target)}"
        export_detector(weights, path, ExportOptions(target, int8=True))
        after = evaluate(path)["AP"]
        print(f"| {target} | {before:.4f} | {after:.4f} | {after - before:+.4f} |", flush=True)


def speed(args: argparse.Namespace, weights: Path, folder: Path) -> None:
    """Print seconds an image of every form, and how many times as fast as torchvision's."""
    forms: dict[str, Callable[[Any], Any]] = {}
    model, _ = load_detector(weights)
    image = torch.randint(0, 256, (3, *args.size), dtype=torch.uint8)
    forms["eager float32"] = reference(copy.deepcopy(model).to(memory_format=torch.channels_last))
    if args.architecture == "fpn":
        forms["torchvision eager float32"] = torchvision_detector(args)
    for target in ("onnx", "openvino"):
        forms[f"{target} float32"] = ExportedDetector(folder / f"{weights.stem}{suffix_of(target)}")
        path = folder / f"speed-int8{suffix_of(target)}"
        images = check_images(min(args.size), max(args.size), tuple(args.size))[:4]
        options = ExportOptions(target, tuple(args.size), int8=True)
        if target == "openvino" or args.onnx_int8:
            export_detector(weights, path, options, calibration=images, sensitivity_images=0)
            forms[f"{target} int8"] = ExportedDetector(path)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for repetition in range(args.repeat + 1):
        for name, form in forms.items():
            start = time.perf_counter()
            with torch.inference_mode():
                form([image])
            if repetition:
                times[name].append(time.perf_counter() - start)
    base = "torchvision eager float32" if args.architecture == "fpn" else "eager float32"
    print(f"\n| form | seconds (median of {args.repeat}) | times as fast as {base} (median of pairs) |\n|---|---|---|")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[base], seconds, strict=True))
        print(f"| {name} | {statistics.median(seconds):.3f} | {ratio:.2f} |", flush=True)


def torchvision_detector(args: argparse.Namespace) -> Callable[[Any], Any]:
    """Return torchvision's Faster R-CNN with random weights, at the image's size and with as many proposals."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    model = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=81,
        min_size=min(args.size),
        max_size=max(args.size),
        rpn_post_nms_top_n_test=args.proposals or 300,
    ).eval()
    return lambda images: model([image.float() / 255 for image in images])
