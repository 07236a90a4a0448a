"""``resdet train``: train and evaluate a detector."""

from collections.abc import Sequence
from pathlib import Path

from detection.commands.parsers import overrides, quoted, run_parser
from detection.config import Config, dump_config, load_config


def main(argv: Sequence[str] | None = None) -> int:
    """Train Faster R-CNN from a configuration, evaluate it, and write the run's folder."""
    parser = run_parser(main.__doc__ or "", argv, Config)
    parser.add_argument(
        "--weights", help="a backbone's or a detector's weights: a file, torchvision://NAME, detectron2://PATH"
    )
    parser.add_argument(
        "--padded",
        action="store_true",
        help="short for model.padded=true: fixed shapes as on GPUs, with the same results",
    )
    args = parser.parse_intermixed_args(argv)
    keys = overrides(args)
    if args.weights and not args.eval_only:
        keys.append(f"model.weights={quoted(args.weights)}")
    if args.padded:
        keys.append("model.padded=true")
    config = load_config(args.config, keys)
    if args.print_config:
        print(dump_config(config), end="")
        return 0
    output = args.output or Path("output") / Path(args.config).stem
    from detection.training import run  # Lightning takes seconds to import; --help should not

    if args.eval_only:
        weights = args.weights or output / "best.pth"
        run.evaluate_only(config, weights, output, [k for k in keys if k.startswith("model.")], args.config)
    else:
        run.train_config(config, output, resume=args.resume, config_name=args.config)
    return 0
