"""``resdet evaluate``: evaluate external detections against COCO annotations or a VOC folder."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from detection.commands import evaluate_weights
from detection.data.coco import read_coco_file
from detection.data.voc import read_voc_ground_truth
from detection.evaluation.coco import EvaluatorName
from detection.evaluation.report import FILES, evaluate, table, write_report
from detection.evaluation.results_io import read_detections
from detection.report.build import PAGE, Options, write
from detection.report.sources import from_files
from detection.training.run_files.run_dir import move_earlier_run
from detection.utils.errors import optional

_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    if argv is not None and any(argument.partition("=")[0] == "--weights" for argument in argv):
        return evaluate_weights.main(argv)
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Compute COCO's twelve metrics and VOC's mAP of a detections file, or, by resdet evaluate --weights "
        "FILE [key=value …] --output FOLDER, of a detector or an exported one on a validation set (--weights FILE --help).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "detections", type=Path, help="a COCO results list, or a dictionary with images, annotations and categories"
    )
    parser.add_argument(
        "truth",
        type=Path,
        metavar="ground_truth",
        help="COCO annotations, or a VOC folder (with Annotations, or with VOC2007 etc. that contain it)",
    )
    parser.add_argument(
        "--voc-iou",
        type=float,
        nargs="+",
        default=[],
        metavar="IOU",
        help="additional IoU thresholds for VOC's AP (0.5 is always included)",
    )
    parser.add_argument("--set", help="VOC: evaluate on this image set (ImageSets/Main/SET.txt) instead of all images")
    parser.add_argument(
        "--max-detections",
        type=int,
        default=100,
        metavar="N",
        help="of an image, the best N count for AP and AR (default: 100, COCO's); where images have more, metrics with all "
        "of them are added",
    )
    parser.add_argument(
        "--evaluator",
        choices=get_args(EvaluatorName),
        default="hotcoco",
        help="what computes COCO's metrics; pycocotools gives the same numbers, some forty times slower (default: hotcoco)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for metrics.json, per_class.csv and report.html; earlier ones are moved to a subfolder",
    )
    parser.add_argument(
        "--image-root",
        type=Path,
        help="folder of the images for report.html (default: looked for beside the annotations)",
    )
    args = parser.parse_args(argv)
    folder = args.truth.is_dir()
    annotations = read_voc_ground_truth(args.truth, args.set) if folder else read_coco_file(args.truth)
    ground_truth = annotations.to_coco()
    detections = read_detections(args.detections, ground_truth)
    without_detections = len(ground_truth["images"]) - len({d["image_id"] for d in detections})
    if folder and args.set is None and without_detections:
        _LOG.warning(
            "evaluated on all %d images of %s, %d of them without detections (--set NAME evaluates on one image set)",
            len(ground_truth["images"]),
            args.truth,
            without_detections,
        )
    report = evaluate(ground_truth, detections, args.voc_iou, args.max_detections, args.evaluator)
    print(table(report), end="")
    if args.output is not None:
        move_earlier_run(args.output, (*FILES, PAGE))
        write_report(report, args.output)
        page = args.output / PAGE
        with optional(page):
            inputs = from_files(args.detections, args.truth, args.image_root, args.set)
            options = Options(max_detections=args.max_detections, evaluator=args.evaluator)
            write(inputs, page, options=options, report=report)
        print(f"written to {args.output}/metrics.json, per_class.csv and {PAGE}")
    return 0
