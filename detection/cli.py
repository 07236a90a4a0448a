"""Command-line entry point: ``resdet COMMAND …``; the scripts of tools/ run the same commands."""

import codecs
import contextlib
import importlib
import importlib.util
import io
import logging
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from detection.utils.distributed import is_leader

Main = Callable[[Sequence[str] | None], int]
_MODULE = "detection.commands.{}"
_IMPORT = "--import"
_LOGGERS = ("detection", "backbone")
_SIGNS = {"…": "...", "×": "x", "–": "-", "’": "'"}
_ASCII = "resdet_ascii"  # an error handler of codecs, for streams
_PLUGIN = "_resdet_plugin"  # attribute of a module that --import has run
# errors that the user can fix; RESDET_TRACEBACK=1 shows their traceback, a run's log.txt always has it
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
COMMANDS = {
    "train": "Train and evaluate a detector.",
    "find-lr": "Try learning rates from low to high, and suggest one.",
    "evaluate": "Evaluate external detections.",
    "report": "Show what a detector gets wrong, on one HTML page: a run's, or anyone's detections.",
    "runs": "List the runs under a folder, and how their configurations differ.",
    "diagnose": "Tell which stage of a detector lost each missed object.",
    "predict": "Detect objects on your images.",
    "export": "Write a detector as ONNX, for OpenVINO, or as torch.export's archive.",
    "serve": "Serve a detector over HTTP.",
    "train-classifier": "Train and evaluate a classifier, which can pretrain a detector's trunk.",
    "classify": "Classify images.",
    "degradation": "Train plain and residual networks of several depths and plot their errors.",
    "convert-weights": "Write weights in torchvision's, detectron2's or ResDet's layout.",
    "inspect": "Print a network's feature map sizes, parameters and multiply-adds; plot its layer responses.",
    "replay": "Repeat a training step whose losses were non-finite, and name the first non-finite layers.",
    "check-dataset": "Report every issue of a dataset, and how training handles it.",
    "data": "Convert, merge and cut datasets: resdet data COMMAND.",
}


def run(command: str, argv: Sequence[str] | None = None) -> int:
    """Run a command by name with :func:`run_main`.

    Args:
        command: a key of ``COMMANDS``.
        argv: its arguments; None uses ``sys.argv``.
    """
    # imported lazily, so that a command loads only its own dependencies
    module = _MODULE.format(command.replace("-", "_"))
    return run_main(lambda arguments: importlib.import_module(module).main(import_plugins(arguments)), argv)


def import_plugins(argv: Sequence[str] | None) -> list[str]:
    """Import the modules and files of all "--import MODULE" and "--import FILE.py" arguments; return the other arguments.

    Raises:
        ValueError: a module or file does not exist.
    """
    remaining = list(sys.argv[1:] if argv is None else argv)
    while _IMPORT in remaining:
        position = remaining.index(_IMPORT)
        if position + 1 == len(remaining):
            raise ValueError("--import expects a module's name or a file")
        name = remaining[position + 1]
        del remaining[position : position + 2]
        try:
            if name.endswith(".py"):
                _run_file(Path(name))
            else:
                sys.path.insert(0, os.getcwd())  # as python -m does
                importlib.import_module(name)
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise ValueError(f"--import {name}: {error}") from error
    return remaining


def _run_file(file: Path) -> None:
    """Run a file as the module of its name, by which processes that are spawned (DataLoader workers on Windows and macOS)
    find what it registers."""
    taken = sys.modules.get(file.stem)
    if (taken is not None and not hasattr(taken, _PLUGIN)) or "." in file.stem:
        runpy.run_path(str(file))
        return
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, _PLUGIN, True)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)


def run_main(command: Main, argv: Sequence[str] | None = None) -> int:
    """Run a command's function with logging to stderr, and return its exit code.

    Errors that the user can fix are printed as one message, with exit code 2. SIGTERM and Ctrl-C end training with exit
    codes 143 and 130 (:mod:`detection.training.callbacks.signals`).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO if is_leader() else logging.ERROR)
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        with any_encoding():
            return command(argv)
    except _USER_ERRORS as error:
        if os.environ.get("RESDET_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        for name, level in levels.items():
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def any_encoding() -> Iterator[None]:
    """Let standard output and error write any text, whatever their encoding (cp1252, or ASCII under LC_ALL=C).

    Where an encoding lacks a character, a table's lines become ``+ - |``, and any other its Python escape.
    """
    codecs.register_error(_ASCII, _as_ascii)
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors=_ASCII)
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)


def _as_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks (an error handler of :mod:`codecs`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if "\u2500" <= character <= "\u257f":  # Unicode's box drawing
        return "-" if character in "─━═" else "|" if character in "│┃║" else "+"
    return character.encode("ascii", "backslashreplace").decode("ascii")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``resdet COMMAND …``."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        commands = "\n".join(f"  {name:17} {description}" for name, description in COMMANDS.items())
        help_requested = bool(argv) and argv[0] in ("-h", "--help")
        usage = (
            f"usage: resdet COMMAND …\n\n{commands}\n\nresdet COMMAND --help shows a command's options. Every command takes "
            "--import FILE.py: Python code to run first,\nfor example to register a data format."
        )
        with any_encoding():
            print(usage, file=sys.stdout if help_requested else sys.stderr)
        return 0 if help_requested else 2
    return run(argv[0], argv[1:])
