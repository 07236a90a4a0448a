"""The table of commands: ``resdet COMMAND …``; the scripts of tools/ run the same ones."""

import importlib
import logging
import os
import runpy
import sys
from collections.abc import Callable, Sequence

from detection.utils.distributed import is_leader

Main = Callable[[Sequence[str] | None], int]
_MODULE = "detection.commands.{}"
_IMPORT = "--import"
# errors that are the user's to mend, and say how; RESDET_TRACEBACK=1 shows where they come from, log.txt always
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
COMMANDS = {
    "train": "Train and evaluate a detector.",
    "evaluate": "Evaluate external detections.",
    "predict": "Detect on your images.",
    "train-classifier": "Train and evaluate a classifier, whose network can be a detector's trunk.",
    "classify": "Name what is on images with a classifier.",
    "degradation": "Train plain and residual networks side by side and draw their errors.",
    "convert-weights": "Write weights in torchvision's, detectron2's or the own layout.",
    "inspect": "Print a network's map sizes, parameters and multiply-adds; draw its layers' responses.",
    "replay": "Repeat a training step whose losses were non-finite, and say where.",
    "check-dataset": "Report every fault of a data set, and what training does about it.",
}


def run(command: str, argv: Sequence[str] | None = None) -> int:
    """Run a command, as :func:`run_main` says.

    Args:
        command: a key of ``COMMANDS``.
        argv: its arguments; None takes the process'.
    """
    # imported by name, so that a command pays for its own imports alone
    module = _MODULE.format(command.replace("-", "_"))
    return run_main(lambda arguments: importlib.import_module(module).main(import_plugins(arguments)), argv)


def import_plugins(argv: Sequence[str] | None) -> list[str]:
    """Import what every "--import MODULE" or "--import FILE.py" of a command's arguments names; return the others.

    Raises:
        ValueError: there is no such module or file.
    """
    rest = list(sys.argv[1:] if argv is None else argv)
    while _IMPORT in rest:
        place = rest.index(_IMPORT)
        if place + 1 == len(rest):
            raise ValueError("--import wants a module's name or a file")
        name = rest[place + 1]
        del rest[place : place + 2]
        try:
            if name.endswith(".py"):
                runpy.run_path(name)
            else:
                sys.path.insert(0, os.getcwd())  # as python -m has it
                importlib.import_module(name)
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise ValueError(f"--import {name}: {error}") from error
    return rest


def run_main(command: Main, argv: Sequence[str] | None = None) -> int:
    """Run a command's function with logging to the screen, and return its exit code.

    An error that the user can mend is one message and exit code 2. SIGTERM and Ctrl-C end a training with 143 and 130
    (:mod:`detection.training.callbacks.signals`).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO if is_leader() else logging.ERROR)
    for name in ("detection", "backbone"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        return command(argv)
    except _USER_ERRORS as error:
        if os.environ.get("RESDET_TRACEBACK"):
            raise
        logging.getLogger("detection").debug("the error's traceback", exc_info=True)  # for log.txt
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        for name in ("detection", "backbone"):
            logging.getLogger(name).removeHandler(handler)


def main(argv: Sequence[str] | None = None) -> int:
    """``resdet COMMAND …``."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        known = "\n".join(f"  {name:17} {about}" for name, about in COMMANDS.items())
        wanted = bool(argv) and argv[0] in ("-h", "--help")
        print(
            f"usage: resdet COMMAND …\n\n{known}\n\nresdet COMMAND --help says more. Every command takes --import FILE.py: "
            "Python to run first,\nsuch as what registers a data format.",
            file=sys.stdout if wanted else sys.stderr,
        )
        return 0 if wanted else 2
    return run(argv[0], argv[1:])
