"""`python tools/suite.py --help`: a list of data sets x configurations x seeds, trained, and one table of all."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.suite import Job, jobs, read_suite, run_all, run_job, write_table

from detection.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not finished, then write suite.csv, suite.md and suite.png."""
    parser = argparse.ArgumentParser(
        description="Train data sets x configurations x seeds from a YAML list and tabulate AP, minutes and divergences. "
        "Fetches nothing. Finished runs are kept, others go on where they stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("list", type=Path, nargs="?", help="the YAML list, such as tools/benchmarks/suite.yaml")
    parser.add_argument("--root", type=Path, default=Path(), help="where sets with a relative data.root lie")
    parser.add_argument("--output", type=Path, default=Path("output/suite"), help="default: output/suite")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, which share the cores")
    parser.add_argument("--only", default="", help="names of sets or configurations, with commas")
    parser.add_argument(
        "--held-back", action="store_true", help="the sets kept for the last look, instead of the others"
    )
    parser.add_argument("--table", action="store_true", help="tabulate what is finished, run nothing")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # one run, in a process of its own
    args = parser.parse_args(argv)
    if args.job:
        run_job(Job(**json.loads(args.job)))
        return 0
    if args.list is None or args.jobs < 1:
        parser.error("wanted a list, and --jobs of at least 1")
    suite = read_suite(args.list)
    only = [name for name in args.only.split(",") if name]
    todo = jobs(suite, args.root, args.output, held_back=args.held_back, only=only)
    if not args.table:
        run_all([job for job in todo if job.result() is None], args.jobs)
    results = [result for job in todo if (result := job.result()) is not None]
    if not results:
        raise ValueError(f"nothing is finished in {args.output}")
    print(write_table(results, args.output, suite.baseline))
    logging.getLogger("detection").info("table and plot: %s", args.output / "suite.md")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
