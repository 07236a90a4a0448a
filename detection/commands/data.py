"""``resdet data``: the table of commands on whole datasets, each in ``data_commands/``."""

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
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        commands = "\n".join(f"  {name:10} {description}" for name, description in COMMANDS.items())
        help_requested = bool(argv) and argv[0] in ("-h", "--help")
        usage = f"usage: resdet data COMMAND …\n\n{commands}\n\nresdet data COMMAND --help shows a command's options."
        print(usage, file=sys.stdout if help_requested else sys.stderr)
        return 0 if help_requested else 2
    # imported lazily, so that a command loads only its own dependencies
    module = importlib.import_module(_MODULE.format(argv[0].replace("-", "_")))
    return int(module.main(argv[1:]))
