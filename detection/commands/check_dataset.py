"""``resdet check-dataset``: report every issue of a dataset, and how training handles it."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from detection.config import load_config
from detection.dataset_check.report import check
from detection.dataset_check.text import format_report
from detection.utils.atomic_io import require_new, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report. Return 1 if training would drop images or boxes, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--config", default="faster_rcnn_r101.yaml", help="configuration whose image sizes and anchors are checked"
    )
    parser.add_argument("--json", type=Path, help="also write the full report to this file")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that decode images (default: all cores)"
    )
    parser.add_argument("--quick", action="store_true", help="check annotations only, without decoding images")
    parser.add_argument(
        "keys", nargs="*", metavar="key=value", help="data.format=voc|coco data.root=… data.train=… data.val=…"
    )
    args = parser.parse_intermixed_args(argv)
    if args.json is not None:
        require_new([args.json], "--json FILE")
        args.json.parent.mkdir(parents=True, exist_ok=True)
    config = load_config(args.config, args.keys)
    report = check(config, workers=args.workers, quick=args.quick)
    print(format_report(report))
    if args.json is not None:
        write_json(args.json, report)
        print(f"full report written to {args.json}")
    return 1 if any(issue["drops"] for issue in report["faults"]) else 0
