"""``resdet check-dataset``: report every fault of a data set, and what training does about it."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from detection.config import load_config
from detection.dataset_check.report import check, format_report
from detection.utils.atomic_io import replacing


def main(argv: Sequence[str] | None = None) -> int:
    """Reports; 1 where something would be lost to training, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", default="faster_rcnn_r101.yaml", help="whose sizes and anchors count")
    parser.add_argument("--json", type=Path, help="write everything there too")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that decode (default: all cores)"
    )
    parser.add_argument("--quick", action="store_true", help="annotations alone: no picture is decoded")
    parser.add_argument(
        "keys", nargs="*", metavar="key=value", help="data.format=voc|coco data.root=… data.train=… data.val=…"
    )
    args = parser.parse_intermixed_args(argv)
    config = load_config(args.config, args.keys)
    report = check(config, workers=args.workers, quick=args.quick)
    print(format_report(report))
    if args.json is not None:
        with replacing(args.json) as part:
            part.write_text(json.dumps(report, indent=2) + "\n")
        print(f"everything is in {args.json}")
    return 1 if any(fault["drops"] for fault in report["faults"]) else 0
