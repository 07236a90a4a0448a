"""``resdet diagnose``: which stage of a detector lost each object that it misses."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.checkpoint.detector import local_file, read_detector
from detection.data.loader import EvalSet, eval_loader
from detection.data.opening import open_source
from detection.inference.diagnosis import diagnose
from detection.ops.device import default_device, use_gpu
from detection.utils.atomic_io import require_new, write_json
from detection.utils.precision import autocast_dtype
from detection.utils.progress import progress_bar


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts of each stage, and write them."""
    parser = argparse.ArgumentParser(prog="resdet diagnose", description=__doc__, allow_abbrev=False)
    parser.add_argument("--weights", required=True, help="best.pth or last.pth of a run")
    parser.add_argument("--output", type=Path, help="also write the diagnosis to this JSON file")
    parser.add_argument("--images", type=int, metavar="N", help="look at the first N images only")
    parser.add_argument(
        "--score",
        type=float,
        metavar="S",
        help="detections need a higher score (default: the detector's own threshold)",
    )
    parser.add_argument("--device", default=str(default_device()), help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument("keys", nargs="*", metavar="key=value", help="configuration overrides, e.g. data.root=…")
    args = parser.parse_intermixed_args(argv)
    if args.output is not None:
        require_new([args.output], "--output FILE")
        args.output.parent.mkdir(parents=True, exist_ok=True)
    result = diagnose_weights(args.weights, args.keys, args.device, args.images, args.score)
    print(text(result))
    if args.output is not None:
        write_json(args.output, result)
        print(f"written to {args.output}")
    return 0


def diagnose_weights(
    weights: str, keys: Sequence[str], device: str, images: int | None = None, score: float | None = None
) -> dict[str, Any]:
    """Return the diagnosis of a trained detector on its validation set, or the one that ``keys`` name.

    Raises:
        FileNotFoundError, ValueError: invalid or missing weights or data, or a number out of range.
    """
    if images is not None and images < 1:
        raise ValueError(f"--images wants at least 1, got {images}")
    if score is not None and not 0 <= score < 1:
        raise ValueError(f"--score wants a fraction from 0 to below 1, got {score}")
    model, config, classes = read_detector(local_file(weights), keys)
    source = open_source(config.data, train=False, config_name=weights)
    if source.val is None:
        raise ValueError("data.val is null: a diagnosis needs a validation set")
    records = source.val.with_classes(classes.names, renumber=config.data.format == "voc")
    if images is not None:
        records = records.select(np.arange(len(records)) < images)
    if score is not None:
        model.roi_head.score_threshold = score
    target = torch.device(device)
    use_gpu(target)
    model = model.to(target)
    loader = eval_loader(EvalSet(records, source.read, config.data), rank=0, world=1, pin=False)
    with progress_bar() as bar:
        task = bar.add_task("diagnosing", total=len(records))
        dtype = autocast_dtype(config.solver.precision, target)
        return diagnose(model, loader, records, target, dtype=dtype, tick=lambda: bar.advance(task))


def text(result: dict[str, Any]) -> str:
    """Return the diagnosis for a terminal."""
    lines = [
        f"{result['missed']} of {result['objects']} objects missed (IoU {result['iou']:g}, score above "
        f"{result['score_threshold']:g}), lost by:"
    ]
    lines += [f"  {name:22} {count:6}" for name, count in result["stages"].items() if count]
    if not result["objects"]:
        return lines[0]
    ious = "".join(f"{iou:>8g}" for iou in result["ious"])
    lines += ["", f"objects with … of an IoU of {ious}"]
    lines.append(f"  {'an anchor':26}" + "".join(f"{v:8.3f}" for v in result["anchors"]))
    for number, values in result["proposals"].items():
        lines.append(f"  {f'one of {number} proposals':26}" + "".join(f"{v:8.3f}" for v in values))
    lines += ["", "AP and AP50 by the IoU of NMS (* used)"]
    for row in result["nms"]:
        values = "".join("       -" if row[k] is None else f"{row[k]:8.3f}" for k in ("AP", "AP50"))
        lines.append(f"  {row['iou']:<6g}{'*' if row['used'] else ' '}{values}")
    return "\n".join(lines)
