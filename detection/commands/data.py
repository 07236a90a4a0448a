"""``resdet data``: the table of commands on whole datasets, each in ``data_commands/``."""

import argparse
import importlib
import sys
from collections.abc import Sequence

_MODULE = "detection.commands.data_commands.{}"
COMMANDS = {
    "convert": "Write a dataset in COCO's, VOC's or YOLO's format.",
    "merge": "Join several datasets into one: ids are renumbered, classes joined by name.",
    "subset": "Write the part of a dataset that has some classes, object sizes, files, or a number of images.",
    "split": "Divide one set into training, validation and test images.",
    "repair": "Write a dataset with boxes read as they are meant, and classes renamed.",
    "view": "Write a page to look at a dataset: images, boxes, and what the check finds.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``resdet data COMMAND …``."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        parser = argparse.ArgumentParser(
            prog="resdet data",
            usage="resdet data COMMAND …",
            description="\n".join(f"  {name:10} {description}" for name, description in COMMANDS.items()),
            epilog="resdet data COMMAND --help shows a command's options.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
        parser.parse_args(argv)
    # imported lazily, so that a command loads only its own dependencies
    module = importlib.import_module(_MODULE.format(argv[0].replace("-", "_")))
    return int(module.main(argv[1:]))
