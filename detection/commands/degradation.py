"""``resdet degradation``: train plain and residual networks of several depths and plot their errors."""

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from detection.classification.config import ClassifierConfig
from detection.classification.degradation import PAPER_NETWORKS, Run, curves, print_summary, summarise, train_all
from detection.classification.networks import build_network
from detection.classification.plots import draw_errors
from detection.config import load
from detection.training.run_files.run_dir import move_earlier_run
from detection.utils.atomic_io import write_json
from detection.utils.errors import optional

_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="degradation.py",
        description="Train plain and residual networks of several depths with the same settings, and plot their errors.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="a classifier's YAML file, or the bare name of one in configs/classifiers/"
    )
    parser.add_argument(
        "--networks",
        default=",".join(PAPER_NETWORKS),
        help=f"comma-separated names (default: {','.join(PAPER_NETWORKS)})",
    )
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated integers (default: 0,1,2)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="parallel runs, which share the cores (default: 1)"
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the runs and the plot (default: output/CONFIG_NAME); finished runs are kept, "
        "others resumed",
    )  # fmt: skip
    parser.add_argument(
        "keys", nargs="*", metavar="key=value", help="configuration keys to change, the same for all runs"
    )
    args = parser.parse_intermixed_args(argv)
    if args.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {args.jobs}")
    names, seeds = args.networks.split(","), args.seeds.split(",")
    if not all(seed.isdigit() for seed in seeds):
        raise ValueError(f"--seeds expects comma-separated integers, such as 0,1,2; got {args.seeds}")
    config = load(ClassifierConfig, args.config, args.keys, "classifiers")
    if config.solver.max_epochs is not None:
        raise ValueError("the networks are compared at equal steps: set solver.max_iter in place of solver.max_epochs")
    if config.data.val is None:
        raise ValueError("data.val is null: the test error needs a validation set")
    if config.mixup or config.cutmix or config.solver.early_stop is not None:
        raise ValueError(
            "mixed images have no training error, and early stopping ends runs at different steps: set mixup=0 cutmix=0 "
            "solver.early_stop=null"
        )
    if len(set(names)) < len(names) or len(set(seeds)) < len(seeds):
        raise ValueError(f"duplicate network or seed: {args.networks}; {args.seeds}")
    output = args.output or Path("output") / Path(args.config).stem
    runs = [
        Run(
            name,
            int(seed),
            output / f"{name}-seed{seed}",
            dataclasses.replace(config, seed=int(seed), network=dataclasses.replace(config.network, name=name)),
        )
        for seed in seeds
        for name in names
    ]
    with torch.device("meta"):
        for run in runs[: len(names)]:
            build_network(run.config.network, 1)  # raises for an unknown one, or options that it does not take
    train_all(runs, args.jobs)
    summary = summarise(runs)
    move_earlier_run(output, ("degradation.json", "degradation.png"))
    write_json(output / "degradation.json", summary)
    print_summary(summary)
    plot = output / "degradation.png"
    with optional(plot):
        draw_errors(curves(runs), plot)
        _LOG.info("errors over the steps: %s", plot)
    return 0
