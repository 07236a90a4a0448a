"""Argument parsers shared by several commands."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from detection.config import Config, DataConfig, config_from_dict, config_help, override
from detection.data.image import MAX_PIXELS
from detection.ops.device import default_device
from detection.utils.precision import Precision


def run_parser(
    description: str, argv: Sequence[str] | None, schema: type, folder: str = "", folder_of_data: bool = False
) -> argparse.ArgumentParser:
    """Return the parser of a training command.

    Args:
        description: of the command.
        argv: its arguments; with --help the epilog lists the configuration keys, which takes time.
        schema: dataclass of its configurations.
        folder: subfolder of configs/ with its shipped configurations.
        folder_of_data: a folder may stand in place of the configuration, which is then chosen for it.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog="configuration keys, with their defaults:\n" + config_help(schema) if _wants_help(argv) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=not folder_of_data, help=f"a YAML file, or the bare name of one in configs/{folder}"
    )
    parser.add_argument("--output", type=Path, help="the run's folder (default: output/CONFIG_NAME)")
    parser.add_argument("--resume", action="store_true", help="resume from the output folder's last.pth")
    parser.add_argument("--eval-only", action="store_true", help="evaluate --weights on data.val without training")
    parser.add_argument("--precision", choices=get_args(Precision), help="short for solver.precision=…")
    parser.add_argument("--print-config", action="store_true", help="print the full configuration and exit")
    parser.add_argument(
        "keys",
        nargs="*",
        metavar="FOLDER key=value" if folder_of_data else "key=value",
        help=("a folder of data, and " if folder_of_data else "")
        + "configuration overrides, e.g. solver.max_iter=1000",
    )
    return parser


def add_image_inputs(
    parser: argparse.ArgumentParser,
    kind: type = Path,
    what: str = "image files, wildcards, and folders to search for images",
) -> None:
    """Add what commands on images share: INPUT … (of a ``kind``; ``what`` is its help), --device and --max-pixels."""
    parser.add_argument("inputs", type=kind, nargs="+", metavar="INPUT", help=what)
    parser.add_argument("--device", default=str(default_device()), help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="height times width of the largest image that is decoded; larger files may be decompression bombs (default: "
        f"the detector's data.max_pixels, or {MAX_PIXELS})",
    )


def overrides(args: argparse.Namespace) -> list[str]:
    """Return the configuration overrides of a training command's arguments: its keys, and the options short for one."""
    return [*args.keys, *([f"solver.precision={args.precision}"] if args.precision else [])]


def quoted(text: str) -> str:
    """Return a string as a double-quoted YAML scalar."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def add_data_keys(parser: argparse.ArgumentParser) -> None:
    """Add the configuration keys that name a dataset, for :func:`data_config`."""
    parser.add_argument(
        "keys",
        nargs="*",
        metavar="key=value",
        help="data.format=… data.root=… data.train=… data.val=…, as for training",
    )


def add_data_output(parser: argparse.ArgumentParser, to: Sequence[str], images: Sequence[str]) -> None:
    """Add what commands that write a dataset share: --to, --output and --images."""
    parser.add_argument("--to", choices=to, default=to[0], help="the format that is written (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--images",
        choices=images,
        default=images[0],
        help="link: hard links, or symbolic ones on another disk; copy; or none: annotations alone (default: %(default)s)",
    )


def data_config(keys: Sequence[str]) -> DataConfig:
    """Return the data section of the default configuration with these overrides."""
    return config_from_dict(override(dataclasses.asdict(Config()), keys)).data


def _wants_help(argv: Sequence[str] | None) -> bool:
    return bool({"-h", "--help"} & set(sys.argv if argv is None else argv))
