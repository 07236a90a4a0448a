"""``resdet train``: train and evaluate a detector."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from detection.commands.parsers import overrides, quoted, run_parser
from detection.config import Config, dump_config, load_config
from detection.utils.atomic_io import require_new, write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Train Faster R-CNN from a configuration, or from nothing but a folder of images and annotations (resdet train FOLDER),
    evaluate it, and write the run's folder."""
    parser = run_parser(main.__doc__ or "", argv, Config, folder_of_data=True)
    parser.add_argument(
        "--weights", help="a backbone's or a detector's weights: a file, torchvision://NAME, detectron2://PATH"
    )
    parser.add_argument(
        "--padded",
        action="store_true",
        help="short for model.padded=true: fixed shapes as on GPUs, with the same results",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="with a folder: print what would be done, and why, and train nothing"
    )
    parser.add_argument(
        "--no-timing", action="store_true", help="with a folder: take no two steps first to say how long a run takes"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="with a folder: write what is chosen as a configuration (a YAML file)"
    )
    args = parser.parse_intermixed_args(argv)
    folder, keys = _folder_and_keys(overrides(args))
    if args.weights and not args.eval_only:
        keys.append(f"model.weights={quoted(args.weights)}")
    if args.padded:
        keys.append("model.padded=true")
    if folder is None and (args.config is None or args.dry_run or args.save):
        parser.error(
            "give a folder of images and annotations, or --config NAME" if args.config is None else _ONLY_FOLDER
        )
    name = args.config if args.config is not None else str(folder)
    output = args.output or Path("output") / (Path(name).stem if args.config else Path(name).resolve().name)
    config = _config(args, folder, keys, output)
    if config is None:
        return 0
    from detection.training import run  # Lightning takes seconds to import; --help should not

    if args.eval_only:
        weights = args.weights or output / "best.pth"
        run.evaluate_only(config, weights, output, [k for k in keys if k.startswith("model.")], name)
        return 0
    try:
        run.train_config(config, output, resume=args.resume, config_name=name)
    except ConnectionError as error:  # the weights cannot be downloaded
        if folder is None:
            raise
        from detection.training.planning.plan import WITHOUT_WEIGHTS

        others = "\n".join(f"  resdet train {shlex.quote(folder)} {keys}\n      {why}" for keys, why in WITHOUT_WEIGHTS)
        raise ConnectionError(f"{error}\nWithout that file:\n{others}") from error
    return 0


_ONLY_FOLDER = "--dry-run and --save are for resdet train FOLDER; --print-config prints a configuration"


def _folder_and_keys(entries: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the first argument that is no key=value, a folder, and the others."""
    folders = [entry for entry in entries if "=" not in entry or Path(entry).is_dir()]
    if len(folders) > 1:
        raise ValueError(f"one folder of data, then key=value: got {', '.join(folders)}")
    return (folders[0] if folders else None), [entry for entry in entries if entry not in folders]


def _config(args: argparse.Namespace, folder: str | None, keys: list[str], output: Path) -> Config | None:
    """Return the configuration to run, None where it was to be printed alone."""
    made = output / "config.yaml"
    if folder is None or ((args.resume or args.eval_only) and args.config is None and made.is_file()):
        config = load_config(args.config if folder is None else made, keys)
        if args.print_config:
            print(dump_config(config), end="")
        return None if args.print_config else config
    from detection.training.planning.plan import make_plan

    if args.save is not None:
        require_new([args.save], "--save FILE")
    plan = make_plan(folder, keys, config=args.config, measure=not args.no_timing)
    print(plan.text(), flush=True)
    if args.save is not None:
        write_text(args.save, plan.yaml())
        print(f"written to {args.save}: resdet train --config {args.save}")
    if args.print_config:
        print(dump_config(plan.config), end="")
    return None if args.dry_run or args.print_config else plan.config
