"""``resdet predict``: detect objects on your images and videos with a trained detector."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from detection.checkpoint.exported import target_of
from detection.commands.parsers import add_image_inputs
from detection.data.image import MAX_PIXELS
from detection.inference.predict import PredictOptions, predict
from detection.inference.predictor import Predictor
from detection.inference.sources import Limits
from detection.inference.urls import MAX_BYTES
from detection.inference.views import Views
from detection.inference.writers import WRITERS
from detection.ops.device import default_device
from detection.training.run_files.run_dir import move_earlier_run
from detection.utils.precision import Precision


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if a file could not be read, after processing all others."""
    args = _parser().parse_args(argv)
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}")
    loaded: list[Predictor] = []

    def load() -> Predictor:
        loaded.append(
            Predictor(
                args.weights,
                device=None if target_of(args.weights) and args.device == str(default_device()) else args.device,
                precision=args.precision,
                score_threshold=args.score,
                classes=args.classes,
                cuda_graphs=args.cuda_graphs,
                padded=args.padded or None,
                max_pixels=args.max_pixels,
                overrides=args.set,
            )
        )
        return loaded[0]

    options = PredictOptions(
        args.output,
        args.format,
        args.threshold,
        not args.no_images,
        args.save_crops,
        args.video,
        args.batch_size,
        Views(tuple(args.scales), args.flip, args.tile, args.overlap),
        Limits(MAX_PIXELS, args.max_bytes, args.timeout, args.allow_private_urls, args.max_frames),
    )
    summary = predict(load, args.inputs, options, move_earlier_run)
    results = "detections.json" if args.format == "coco" else f"{args.format} results"
    print(
        f"{summary.images} images, {summary.detections} detections; "
        f"{'' if args.no_images else 'annotated images and '}{results} are in {args.output}"
    )
    if summary.unreadable:
        total = summary.images + len(summary.unreadable)
        print(f"{len(summary.unreadable)} of {total} files could not be read:\n  " + "\n  ".join(summary.unreadable))
    return 1 if summary.unreadable else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Detect objects on images, videos and cameras.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="best.pth or last.pth of a run, or an exported FILE.onnx, FILE.xml or FILE.pt2",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder for the annotated images and the detections; earlier ones are moved to a subfolder, and no file is "
        "replaced",
    )
    _add_results(parser)
    _add_detector(parser)
    _add_reading(parser)
    what = "images, videos, folders, wildcards, lists (FILE.txt), http(s) addresses, rtsp://…, a webcam's number, or -"
    add_image_inputs(parser, str, what)
    return parser


def _add_results(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument("--format", choices=list(WRITERS), default="coco", help="of the detections (default: coco)")
    group.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="minimum score of drawn boxes and crops (results have all; default 0.5)",
    )
    group.add_argument("--no-images", action="store_true", help="draw no images")
    group.add_argument(
        "--save-crops", action="store_true", help="write each object's part of its image to crops/CLASS/"
    )
    group.add_argument("--video", type=Path, metavar="FILE.mp4", help="write the drawn frames as a video")


def _add_detector(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("detector")
    group.add_argument("--score", type=float, help="minimum score of detections (default: the detector's own)")
    group.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes (end the list by --)")
    group.add_argument(
        "--batch-size", type=int, help="images of one size per batch (default: what a GPU's memory holds; 1 on a CPU)"
    )
    group.add_argument("--tile", type=int, metavar="N", help="cut larger images into tiles of N pixels a side (SAHI)")
    group.add_argument(
        "--overlap", type=float, default=0.2, help="fraction of a tile shared with the next (default: 0.2)"
    )
    group.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=(1.0,),
        metavar="X",
        help="see each image at several sizes: 0.8 1 1.2",
    )
    group.add_argument("--flip", action="store_true", help="see each image flipped, too")
    group.add_argument(
        "--cuda-graphs", action="store_true", help="replay a CUDA graph for image sizes that recur (on a GPU)"
    )
    group.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="auto",
        help="default: auto, bf16 where the hardware supports it, else fp16 on a GPU, else float32",
    )
    group.add_argument(
        "--padded",
        action="store_true",
        help="run with proposals and detections padded to fixed shapes, as on a GPU (same detections)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the detector's configuration, such as model.roi.nms=soft_gaussian; may be repeated",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reading")
    group.add_argument("--max-frames", type=int, metavar="N", help="of a video or camera, the first N frames")
    group.add_argument(
        "--max-bytes", type=int, default=MAX_BYTES, metavar="N", help="of an address' answer (default: %(default)s)"
    )
    group.add_argument("--timeout", type=float, default=20.0, help="seconds for an address (default: %(default)s)")
    group.add_argument(
        "--allow-private-urls", action="store_true", help="also fetch from this machine and private networks"
    )
