"""``resdet report``: what a detector gets wrong, on one page in one HTML file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detection.report.build import write
from detection.report.sources import open_inputs
from detection.utils.atomic_io import require_new


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and the numbers. Return 1 if a requirement is not met, else 0."""
    parser = argparse.ArgumentParser(prog="resdet report", description=__doc__, allow_abbrev=False)
    parser.add_argument("source", type=Path, metavar="RUN | DETECTIONS", help="a run's folder, or COCO results")
    parser.add_argument("ground_truth", type=Path, nargs="?", help="of DETECTIONS: COCO annotations, or a VOC folder")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page (default: report.html)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--set", help="VOC: the image set (ImageSets/Main/SET.txt); all images without it")
    parser.add_argument(
        "--image-root", type=Path, help="folder of the images (default: looked for beside the annotations)"
    )
    args = parser.parse_args(argv)
    files = [args.output, *([args.json] if args.json else [])]
    require_new(files, "--output or --json FILE")
    inputs = open_inputs(args.source, args.ground_truth, images=args.image_root, image_set=args.set)
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    numbers = write(inputs, args.output, args.json)
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MB, computed in {numbers['seconds']:.1f} s")
    return 0
