"""``resdet evaluate --weights FILE``: run a detector, or an exported one, on a validation set and evaluate it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detection.training.api import evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="resdet evaluate",
        description="Run a detector on a validation set, by default that of its training, and compute its metrics. Exported "
        "files go the same way as best.pth.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--weights",
        required=True,
        nargs="+",
        metavar="FILE",
        help="best.pth, or an exported FILE.onnx, FILE.xml or FILE.pt2; several best.pth are an ensemble",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder for metrics.json, detections.json and images; earlier ones are moved to a subfolder",
    )
    parser.add_argument(
        "keys",
        nargs="*",
        metavar="key=value",
        help="overrides of the configuration it was trained with, e.g. data.root=…",
    )
    args = parser.parse_args(argv)
    # what follows --weights may be keys
    files = [entry for entry in args.weights if "=" not in entry or Path(entry).exists()]
    keys = [entry for entry in args.weights if entry not in files]
    if not files:
        parser.error("--weights wants a file")
    evaluate(files, [*keys, *args.keys], output=args.output)
    print(f"written to {args.output}: metrics.json, per_class.csv, detections.json, pictures/")
    return 0
