"""``resdet data merge``: join several datasets into one."""

import argparse
from collections.abc import Sequence

from detection.commands.parsers import add_data_output
from detection.data_tools.folders import IMAGES
from detection.data_tools.merge import merge, sources_of
from detection.data_tools.writers import WRITERS, report_written, write_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="resdet data merge",
        description="Join datasets of any formats: ids are renumbered, classes joined by name, equal file names kept apart.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--from",
        dest="sources",
        action="append",
        required=True,
        metavar="FORMAT:FOLDER[:SPLIT[=NAME]]",
        help="a dataset, once for each: one split, which becomes part of the split NAME, or all that are found, train with "
        "train and val with val; e.g. --from voc:bccd --from coco:data/coco:train2017=train",
    )
    add_data_output(parser, list(WRITERS), IMAGES)
    args = parser.parse_args(argv)
    splits, names = merge(sources_of(args.sources))
    lost = write_dataset(splits, args.output, args.to, args.images, names=names)
    print(report_written(splits, args.output, args.to, lost))
    return 0
