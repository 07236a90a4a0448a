"""``resdet data view``: write a page to look at a dataset."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from detection.commands.parsers import add_data_keys
from detection.config import load_config
from detection.dataset_check.view import THUMBNAILS, view_page
from detection.utils.atomic_io import require_new, write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="resdet data view", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.html", help="a new file")
    parser.add_argument(
        "--images", type=int, default=THUMBNAILS, metavar="N", help="that get a thumbnail (default: %(default)s)"
    )
    parser.add_argument("--full", action="store_true", help="also decode and compare all images, as check-dataset does")
    parser.add_argument(
        "--config", default="faster_rcnn_r101.yaml", help="configuration whose image sizes and anchors are checked"
    )
    add_data_keys(parser)
    args = parser.parse_intermixed_args(argv)
    if args.images < 0:
        parser.error(f"--images expects a number of images from 0, got {args.images}")
    require_new([args.output], "--output FILE.html")
    config = load_config(args.config, args.keys)
    page = view_page(config, images=args.images, full=args.full, workers=os.cpu_count() or 1)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, page)
    print(f"written to {args.output} ({len(page) / 2**20:.1f} MiB): open it in a browser")
    return 0
