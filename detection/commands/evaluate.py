"""``resdet evaluate``: evaluate external detections against COCO annotations or a VOC folder."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from detection.data.voc import read_voc_ground_truth
from detection.evaluation.report import evaluate, table, write_report
from detection.evaluation.results_io import read_detections, read_ground_truth

_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="COCO's twelve numbers and VOC's mAP of a file of detections.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "detections", type=Path, help="a COCO results list, or a dictionary with images, annotations and categories"
    )
    parser.add_argument(
        "truth", type=Path, help="COCO annotations, or a VOC folder (with Annotations, or with years that have them)"
    )
    parser.add_argument(
        "--voc-iou",
        type=float,
        nargs="+",
        default=[],
        metavar="IOU",
        help="further IoUs for VOC's AP (0.5 is always there)",
    )
    parser.add_argument("--set", help="VOC: judge on this image set (ImageSets/Main/SET.txt) and not on all images")
    parser.add_argument("--output", type=Path, help="folder for metrics.json and per_class.csv")
    args = parser.parse_args(argv)
    truth = read_voc_ground_truth(args.truth, args.set) if args.truth.is_dir() else read_ground_truth(args.truth)
    detections = read_detections(args.detections, truth, by_name=args.truth.is_dir())
    without = len(truth["images"]) - len({d["image_id"] for d in detections})
    if args.truth.is_dir() and args.set is None and without:
        _LOG.warning(
            "judged on all %d images of %s, %d of them without a detection (--set NAME judges on one image set)",
            len(truth["images"]),
            args.truth,
            without,
        )
    report = evaluate(truth, detections, args.voc_iou)
    print(table(report), end="")
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        write_report(report, args.output)
        print(f"written to {args.output}/metrics.json and per_class.csv")
    return 0
