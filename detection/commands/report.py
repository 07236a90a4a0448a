"""``resdet report``: what a detector gets wrong, on one page in one HTML file."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from detection.commands.diagnose import diagnose_weights
from detection.data.annotations import DataError
from detection.evaluation.coco import MAX_DETECTIONS, EvaluatorName
from detection.ops.device import default_device
from detection.report.build import THUMBNAILS, Options, write
from detection.report.requirements import check, parse
from detection.report.sources import Inputs, open_inputs, other_detections
from detection.utils.atomic_io import require_new

DIAGNOSIS = "diagnosis.json"  # of a run, as resdet diagnose writes it


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and the numbers. Return 1 if a requirement is not met, else 0."""
    args = _parser().parse_args(argv)
    requirements = [parse(text) for text in args.require]
    if args.images < 0:
        raise ValueError(f"--images wants 0 or more, got {args.images}")
    page = args.output or (None if args.json or requirements else Path("report.html"))
    files = [file for file in (page, args.json) if file is not None]
    require_new(files, "--output or --json FILE")
    inputs = open_inputs(args.source, args.ground_truth, images=args.image_root, image_set=args.set)
    options = Options(
        thumbnails=args.images,
        fields=tuple(args.slice),
        compare=tuple(_other(other, inputs) for other in args.compare),
        diagnosis=_diagnosis(args, inputs),
        max_detections=args.max_detections,
        evaluator=args.evaluator,
    )
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    numbers = write(inputs, page, args.json, options)
    for file in files:
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    print(f"numbers computed in {numbers['seconds']:.1f} s")
    failures = check(requirements, numbers)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resdet report", description=__doc__, allow_abbrev=False)
    parser.add_argument("source", type=Path, metavar="RUN | DETECTIONS", help="a run's folder, or COCO results")
    parser.add_argument("ground_truth", type=Path, nargs="?", help="of DETECTIONS: COCO annotations, or a VOC folder")
    parser.add_argument(
        "--output", type=Path, help="the page (default: report.html, unless --json or --require is given)"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--set", help="VOC: the image set (ImageSets/Main/SET.txt); all images without it")
    parser.add_argument(
        "--image-root", type=Path, help="folder of the images (default: looked for beside the annotations)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=THUMBNAILS,
        metavar="N",
        help=f"thumbnails in the page, of the worst images (default: {THUMBNAILS})",
    )
    parser.add_argument(
        "--slice",
        action="append",
        default=[],
        metavar="FIELD",
        help="AP by folder, or by a key of the annotation file's image entries; may be given again",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="OTHER",
        help="another run's folder, or other detections of the same images; may be given again",
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="'AP>=0.40'",
        help="exit with 1 unless the number is met: a metric, or AP50[CLASS] of a class; may be given again",
    )
    parser.add_argument("--weights", help="a run's best.pth: also tell which stage lost each missed object")
    parser.add_argument("--device", default=str(default_device()), help="for --weights (default: %(default)s)")
    parser.add_argument("--max-detections", type=int, default=MAX_DETECTIONS, metavar="N", help="as of resdet evaluate")
    parser.add_argument("--evaluator", choices=get_args(EvaluatorName), default="hotcoco", help="as of resdet evaluate")
    return parser


def _other(path: Path, inputs: Inputs) -> Inputs:
    """Return another evaluation, of a run or of a detections file with the same ground truth."""
    return open_inputs(path, None) if path.is_dir() else other_detections(path, inputs)


def _diagnosis(args: argparse.Namespace, inputs: Inputs) -> dict[str, Any] | None:
    if args.weights is not None:
        return diagnose_weights(args.weights, [], args.device)
    if inputs.run is None or not (inputs.run / DIAGNOSIS).is_file():
        return None
    try:
        result: dict[str, Any] = json.loads((inputs.run / DIAGNOSIS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{inputs.run / DIAGNOSIS} is not valid JSON: {error}") from error
    return result
