"""`resdet train FOLDER` beside a tuned configuration: AP and minutes of several seeds on one data set."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from detection.config import dump_config, load_config
from detection.training.api import train
from detection.training.planning.plan import make_plan
from detection.utils.atomic_io import require_new, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Train both for each seed, print AP, AP50 and minutes, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="of the data set, such as shared/data/bccd")
    parser.add_argument("--tuned", default="faster_rcnn_r18_own_data.yaml", help="the configuration to compare with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and result.json")
    parser.add_argument(
        "keys", nargs="*", metavar="key=value", help="for both, such as model.weights=FILE or solver.max_iter=300"
    )
    args = parser.parse_intermixed_args(argv)
    require_new([args.output / "result.json"], "--output")
    plan = make_plan(args.folder, args.keys, measure=False)
    print(plan.text())
    data = [
        entry for entry in plan.keys if entry.startswith(("data.format=", "data.root=", "data.train=", "data.val="))
    ]
    configs = {"chosen": plan.config, "tuned": load_config(args.tuned, [*data, *args.keys])}
    rows = []
    for seed in args.seeds:
        for name, config in configs.items():  # in turn, since the machine's speed may change
            started = time.perf_counter()
            run = train(config, [f"seed={seed}"], output=args.output / f"{name}-{seed}")
            metrics = run.metrics or {}
            minutes = (time.perf_counter() - started) / 60
            rows.append(
                {"name": name, "seed": seed, "minutes": minutes, "AP": metrics.get("AP"), "AP50": metrics.get("AP50")}
            )
            print(json.dumps(rows[-1]))
    for name in configs:
        of_name = [row for row in rows if row["name"] == name]
        ap = [row["AP"] for row in of_name if row["AP"] is not None]
        print(
            f"{name}: AP median {statistics.median(ap):.3f} ({min(ap):.3f} to {max(ap):.3f})"
            if ap
            else f"{name}: no AP"
        )
    write_json(args.output / "result.json", {"rows": rows, "chosen": dump_config(plan.config)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
