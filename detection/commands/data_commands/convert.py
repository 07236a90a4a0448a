"""``resdet data convert``: write a dataset in COCO's, VOC's or YOLO's format."""

import argparse
from collections.abc import Sequence

from detection.commands.parsers import add_data_keys, add_data_output, data_config
from detection.data_tools.convert import open_splits
from detection.data_tools.folders import IMAGES
from detection.data_tools.writers import WRITERS, report_written, write_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="resdet data convert", description=__doc__, allow_abbrev=False)
    add_data_output(parser, list(WRITERS), IMAGES)
    add_data_keys(parser)
    args = parser.parse_intermixed_args(argv)
    splits = open_splits(data_config(args.keys))
    lost = write_dataset(splits, args.output, args.to, args.images)
    print(report_written(splits, args.output, args.to, lost))
    return 0
