"""The command line, ``resdet COMMAND …``; the scripts of tools/ call the same functions."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from detection.config import Config, config_help, dump_config, load, load_config

Command = Callable[[Sequence[str] | None], int]
# errors that are the user's to mend, and say how; RESDET_TRACEBACK=1 shows where they come from, log.txt always
_USER_ERRORS = (ValueError, TypeError, OSError)


def train(argv: Sequence[str] | None = None) -> int:
    """Trains and evaluates a detector."""
    parser = _run_parser(
        "Train Faster R-CNN from a configuration, evaluate it, and write the run's folder.", argv, Config
    )
    parser.add_argument(
        "--weights", help="a backbone's or a detector's weights: a file, torchvision://NAME, detectron2://PATH"
    )
    args = parser.parse_intermixed_args(argv)
    overrides = list(args.keys)
    if args.weights and not args.eval_only:
        overrides.append(f"model.weights={_quoted(args.weights)}")
    config = load_config(args.config, overrides)
    if args.print_config:
        print(dump_config(config), end="")
        return 0
    output = args.output or Path("output") / Path(args.config).stem
    from detection.training import run as engine  # Lightning takes seconds to import; --help should not

    if args.eval_only:
        weights = args.weights or output / "best.pth"
        engine.evaluate_only(config, weights, output, [k for k in args.keys if k.startswith("model.")], args.config)
    else:
        engine.train(config, output, resume=args.resume, config_name=args.config)
    return 0


def train_classifier(argv: Sequence[str] | None = None) -> int:
    """Trains and evaluates a classifier, whose network can be a detector's trunk."""
    from detection.classification.config import ClassifierConfig

    about = "Train a residual network as a classifier; its best.pth goes to --weights of a detector's training."
    parser = _run_parser(about, argv, ClassifierConfig, "classifiers/")
    parser.add_argument("--weights", type=Path, help="for --eval-only (default: the output folder's best.pth)")
    parser.add_argument(
        "--views",
        choices=("single", "ten", "scales"),
        default="single",
        help="for --eval-only: the middle, ten crops, or the whole picture at five sizes (default: single)",
    )
    args = parser.parse_intermixed_args(argv)
    if (args.weights or args.views != "single") and not args.eval_only:
        raise ValueError("--weights and --views are for --eval-only; to begin with weights, set network.init_from=FILE")
    config = load(ClassifierConfig, args.config, args.keys, "classifiers")
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


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Judges anyone's detections."""
    from detection.evaluation.results_io import main  # the evaluators take a second to import

    return main(argv)


def predict(argv: Sequence[str] | None = None) -> int:
    """Detects on pictures of one's own."""
    from detection.inference.predictor import main

    return main(argv)


def classify(argv: Sequence[str] | None = None) -> int:
    """Names what is on pictures with a classifier."""
    from detection.classification.classify import main

    return main(argv)


def degradation(argv: Sequence[str] | None = None) -> int:
    """Trains plain and residual networks side by side and draws their errors."""
    from detection.classification.degradation import main

    return main(argv)


def convert_weights(argv: Sequence[str] | None = None) -> int:
    """Writes weights in torchvision's, detectron2's or the own layout."""
    from detection.checkpoint.convert import main

    return main(argv)


def check_dataset(argv: Sequence[str] | None = None) -> int:
    """Names every fault of a data set, and what training does about it."""
    from detection.dataset_check.report import main

    return main(argv)


def replay(argv: Sequence[str] | None = None) -> int:
    """Repeats a training step whose losses were not finite, and says where."""
    from detection.training.replay import main

    return main(argv)


def inspect(argv: Sequence[str] | None = None) -> int:
    """Prints a network's map sizes, parameters and multiply-adds; draws its layers' responses."""
    from detection.classification.inspection import main

    return main(argv)


_COMMANDS: dict[str, Command] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "train-classifier": train_classifier,
    "classify": classify,
    "degradation": degradation,
    "convert-weights": convert_weights,
    "inspect": inspect,
    "replay": replay,
    "check-dataset": check_dataset,
}


def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Runs a command with logging to the screen; an error that the user can mend is one message and exit code 2. SIGTERM and
    Ctrl-C end a training with 143 and 130 (:mod:`detection.training.callbacks.signals`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
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
    if not argv or argv[0] not in _COMMANDS:
        known = "\n".join(f"  {name:17} {command.__doc__}" for name, command in _COMMANDS.items())
        wanted = bool(argv) and argv[0] in ("-h", "--help")
        print(
            f"usage: resdet COMMAND …\n\n{known}\n\nresdet COMMAND --help says more.",
            file=sys.stdout if wanted else sys.stderr,
        )
        return 0 if wanted else 2
    return run(_COMMANDS[argv[0]], argv[1:])


def _run_parser(description: str, argv: Sequence[str] | None, schema: type, shelf: str = "") -> argparse.ArgumentParser:
    """What every command that trains from a configuration takes; ``shelf`` is where its shipped ones lie in configs/."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="configuration keys, with their defaults:\n" + config_help(schema) if _wants_help(argv) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help=f"a YAML file, or the bare name of one in configs/{shelf}")
    parser.add_argument("--output", type=Path, help="the run's folder (default: output/CONFIG_NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the output folder's last.pth")
    parser.add_argument("--eval-only", action="store_true", help="evaluate --weights on data.val, train nothing")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    parser.add_argument(
        "keys", nargs="*", metavar="key=value", help="configuration keys to change, e.g. solver.max_iter=1000"
    )
    return parser


def _wants_help(argv: Sequence[str] | None) -> bool:
    return bool({"-h", "--help"} & set(sys.argv if argv is None else argv))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
