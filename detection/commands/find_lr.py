"""``resdet find-lr``: try learning rates from low to high, and suggest one."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detection.config import load_config


def main(argv: Sequence[str] | None = None) -> int:
    """Try learning rates from low to high on the first steps of a run, and suggest one; trains nothing that is kept."""
    parser = argparse.ArgumentParser(prog="resdet find-lr", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a YAML file, or the bare name of one in configs/")
    parser.add_argument("--output", type=Path, required=True, help="folder for lr_finder.json and lr_finder.png")
    parser.add_argument("--lowest", type=float, default=1e-6, help="first learning rate (default: %(default)g)")
    parser.add_argument("--highest", type=float, default=1.0, help="last learning rate (default: %(default)g)")
    parser.add_argument("--steps", type=int, default=100, help="from one to the other (default: %(default)s)")
    parser.add_argument("keys", nargs="*", metavar="key=value", help="configuration overrides")
    args = parser.parse_intermixed_args(argv)
    config = load_config(args.config, args.keys)
    from detection.training.tuning import lr_finder  # Lightning takes seconds to import; --help should not

    result = lr_finder.find_lr(
        config, args.output, lowest=args.lowest, highest=args.highest, steps=args.steps, config_name=args.config
    )
    if result.suggestion is None:
        print(f"no suggestion: the loss nowhere falls over {len(result.rates)} steps; see {args.output}/lr_finder.png")
        return 1
    print(
        f"suggested learning rate {result.suggestion:.2g}: solver.base_lr={result.base_lr:.2g} for this batch size; "
        f"plot and numbers are in {args.output}"
    )
    return 0
