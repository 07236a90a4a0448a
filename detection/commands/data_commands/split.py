"""``resdet data split``: divide one set into training, validation and test images, as a dataset of its own."""

import argparse
from collections.abc import Sequence

from detection.commands.parsers import add_data_keys, add_data_output, data_config
from detection.data.splitting.split import describe_split
from detection.data_tools.folders import IMAGES
from detection.data_tools.split import split_dataset
from detection.data_tools.writers import WRITERS, report_written

_SAME = "same"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="resdet data split", description=__doc__, allow_abbrev=False)
    parser.add_argument("--val", type=float, default=0.2, metavar="FRACTION", help="of the images (default: 0.2)")
    parser.add_argument("--test", type=float, default=0.0, metavar="FRACTION", help="of the images (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument("--join", action="store_true", help="divide the images of data.train and data.val anew")
    add_data_output(parser, [_SAME, *WRITERS], IMAGES)
    add_data_keys(parser)
    args = parser.parse_intermixed_args(argv)
    to = None if args.to == _SAME else args.to
    result = split_dataset(
        data_config(args.keys),
        args.output,
        val=args.val,
        test=args.test,
        seed=args.seed,
        join=args.join,
        to=to,
        images=args.images,
    )
    print(describe_split(result.split))
    print(report_written(result.parts, args.output, result.format, result.lost))
    return 0
