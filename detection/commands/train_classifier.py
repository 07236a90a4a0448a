"""``resdet train-classifier``: train and evaluate a classifier, which can pretrain a detector's trunk."""

from collections.abc import Sequence
from pathlib import Path

from detection.classification.config import ClassifierConfig
from detection.commands.parsers import overrides, run_parser
from detection.config import dump_config, load


def main(argv: Sequence[str] | None = None) -> int:
    """Train a residual network as a classifier; resdet train takes its best.pth as --weights."""
    parser = run_parser(main.__doc__ or "", argv, ClassifierConfig, "classifiers/")
    parser.add_argument("--weights", type=Path, help="for --eval-only (default: the output folder's best.pth)")
    parser.add_argument(
        "--views",
        choices=("single", "ten", "scales"),
        default="single",
        help="for --eval-only: the centre crop, ten crops, or the whole image at five sizes (default: single)",
    )
    args = parser.parse_intermixed_args(argv)
    if (args.weights or args.views != "single") and not args.eval_only:
        raise ValueError("--weights and --views require --eval-only; to start from weights, set network.init_from=FILE")
    config = load(ClassifierConfig, args.config, overrides(args), "classifiers")
    if args.print_config:
        print(dump_config(config), end="")
        return 0
    output = args.output or Path("output") / Path(args.config).stem
    from detection.classification import train as training  # Lightning takes seconds to import; --help should not

    if args.eval_only:
        training.evaluate_only(config, args.weights or output / "best.pth", output, args.views)
    else:
        training.train(config, output, resume=args.resume)
    return 0
