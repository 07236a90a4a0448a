"""``resdet data repair``: write a dataset with boxes of another convention read as they are meant, and classes renamed."""

import argparse
from collections.abc import Sequence

from detection.commands.parsers import add_data_keys, add_data_output, data_config
from detection.data_tools.folders import IMAGES
from detection.data_tools.repair import BOXES, repair_dataset
from detection.data_tools.writers import WRITERS, report_written

_SAME = "same"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="resdet data repair", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--boxes",
        choices=BOXES,
        default=BOXES[0],
        help="relative: fractions of the image; corners: x1, y1, x2, y2 where width and height are due (default: as-is)",
    )
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="a class; two of one name are joined"
    )
    add_data_output(parser, [_SAME, *WRITERS], IMAGES)
    add_data_keys(parser)
    args = parser.parse_intermixed_args(argv)
    if wrong := [entry for entry in args.rename if not all(entry.partition("="))]:
        parser.error(f"--rename expects OLD=NEW, got {wrong[0]!r}")
    rename = {old: new for old, _, new in (entry.rpartition("=") for entry in args.rename)}
    sets, to, lost = repair_dataset(
        data_config(args.keys),
        args.output,
        boxes=args.boxes,
        rename=rename,
        to=None if args.to == _SAME else args.to,
        images=args.images,
    )
    print(report_written(sets, args.output, to, lost))
    return 0
