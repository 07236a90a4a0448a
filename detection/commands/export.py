"""``resdet export``: write a trained detector as ONNX, for OpenVINO, or as torch.export's archive."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from backbone.weights import read_weights
from detection.checkpoint.detector import local_file, require_metadata
from detection.checkpoint.exported import SUFFIXES
from detection.data.image import find_images, read_image
from detection.export.api import ExportOptions, export_detector
from detection.export.parity import as_seen
from detection.export.quantize import Agreement
from detection.utils.progress import status

_IMAGES = 64  # of --images that are compared on
_CALIBRATE = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_intermixed_args(argv)
    command = shlex.join(["resdet", "export", *(sys.argv[1:] if argv is None else argv)])
    count = args.calibrate if isinstance(args.calibrate, int) else _CALIBRATE
    options = ExportOptions(
        args.to, args.size, args.batch, args.input, args.top, command, args.with_resize, args.int8, count
    )
    folder = None if isinstance(args.calibrate, int) else [args.calibrate]
    with status("reading") as step:
        images, calibration = (
            _seen(args, inputs, limit) for inputs, limit in ((args.images, _IMAGES), (folder, _CALIBRATE))
        )
        info = export_detector(
            args.weights,
            args.output,
            options,
            overrides=args.keys,
            images=images,
            calibration=calibration if args.int8 else None,
            step=step,
        )
    parity = info.parity
    print(
        f"{args.output}: {info.architecture} on {info.backbone}, {len(info.classes)} classes, input {info.dtype} "
        f"{_shape(info.batch, None if info.resize else info.size)}, at most {info.top} detections\n"
        f"equal to {args.weights} on {parity['images']} images of {parity['sizes']} sizes: {parity['detections']} "
        f"detections, boxes within {parity['box']:.2g} px, scores within {parity['score']:.2g}"
    )
    for part, values in parity.get("int8", {}).items():
        print(f"int8, {'as written' if part == 'all' else f'{part} alone'}: {Agreement(**values)}")
    return 0


def _seen(args: argparse.Namespace, inputs: Sequence[Path] | None, limit: int) -> list[Tensor] | None:
    """Return the first images of files and folders, as the network sees them."""
    if not inputs:
        return None
    data = require_metadata(read_weights(local_file(args.weights))).config(args.weights, args.keys).data
    sides = data.short_side[-1], data.max_side, args.size
    return [as_seen(read_image(file, data.max_pixels), *sides) for file in find_images(inputs)[:limit]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resdet export",
        description="Export a trained detector. The file is written only if its detections on eight images or more are the "
        "detector's: boxes within 0.01 px, scores within 0.0001.",
        allow_abbrev=False,
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="best.pth or last.pth of a run")
    parser.add_argument("--to", required=True, choices=sorted(set(SUFFIXES.values())))
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="FILE.onnx, FILE.xml (OpenVINO) or FILE.pt2; not replaced",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default=None,
        metavar="HxW",
        help="height and width of the input, such as 800x1333, which smaller images are padded to; default: dynamic",
    )
    parser.add_argument(
        "--with-resize",
        action="store_true",
        help="take original images, which the graph resizes to fit into --size (default: a square of data.max_side)",
    )
    parser.add_argument(
        "--batch", type=_batch, default=1, metavar="N", help="images of the input, or dynamic; default: 1"
    )
    parser.add_argument(
        "--input", choices=("uint8", "float32"), default="uint8", help="RGB bytes (default), or float32 in 0..1"
    )
    parser.add_argument("--top", type=_batch, metavar="N", help="detections in the output (default: the detector's)")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help=f"images, wildcards and folders to compare on, the first {_IMAGES}; default: eight drawn ones",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="quantise to int8 (onnx, openvino); the last layers and decoding stay float32",
    )
    parser.add_argument(
        "--calibrate",
        type=_calibrate,
        default=_CALIBRATE,
        metavar="FOLDER|N",
        help=f"images that int8's ranges are taken from: a folder's first {_CALIBRATE}, or N of the training set (default: "
        f"{_CALIBRATE})",
    )
    parser.add_argument(
        "keys", nargs="*", metavar="key=value", help="configuration overrides, e.g. model.rpn.after_nms_test=300"
    )
    return parser


def _size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"wanted HEIGHTxWIDTH such as 800x1333, or dynamic, got {text!r}")
    return int(match[1]), int(match[2])


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not re.fullmatch(r"[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"wanted a number from 1 on, or dynamic, got {text!r}")
    return int(text)


def _calibrate(text: str) -> int | Path:
    return int(text) if re.fullmatch(r"[1-9]\d{0,6}", text) else Path(text)


def _shape(batch: int | None, size: tuple[int, int] | None) -> str:
    height, width = size or ("H", "W")
    return f"[{batch or 'N'}, 3, {height}, {width}]"
