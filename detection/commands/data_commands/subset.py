"""``resdet data subset``: write a part of a dataset."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detection.commands.parsers import add_data_keys, add_data_output, data_config
from detection.data.files import read_lines
from detection.data_tools.convert import open_splits
from detection.data_tools.folders import IMAGES
from detection.data_tools.subset import parse_size, subset
from detection.data_tools.writers import WRITERS, report_written, write_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="resdet data subset",
        description="Write the part of a dataset that has some classes, object sizes, files, or a number of images.",
        allow_abbrev=False,
    )
    parser.add_argument("--classes", metavar="A,B", help="objects of these classes alone, in this order")
    parser.add_argument(
        "--size", metavar="SIZE", help="objects of this size: small, medium, large (COCO's), or MIN:MAX in pixels"
    )
    parser.add_argument("--files", type=Path, metavar="LIST", help="a text file with the images' names, one a line")
    parser.add_argument("--number", type=int, metavar="N", help="N images of each split, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-empty", action="store_true", help="keep images all of whose objects were left out")
    add_data_output(parser, list(WRITERS), IMAGES)
    add_data_keys(parser)
    args = parser.parse_intermixed_args(argv)
    splits = {
        name: subset(
            records,
            classes=[c.strip() for c in args.classes.split(",")] if args.classes else (),
            size=parse_size(args.size) if args.size else None,
            files=[line.strip() for line in read_lines(args.files) if line.strip()] if args.files else None,
            images=args.number,
            keep_empty=args.keep_empty,
            seed=args.seed,
        )
        for name, records in open_splits(data_config(args.keys)).items()
    }
    lost = write_dataset(splits, args.output, args.to, args.images)
    print(report_written(splits, args.output, args.to, lost))
    return 0
