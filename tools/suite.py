"""`python tools/suite.py --help`: train a list of datasets x configurations x seeds, and tabulate the results."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.suite import Job, jobs, read_suite, run_all, run_job, write_table

from detection.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the unfinished runs, then write suite.csv, suite.md and suite.png."""
    parser = argparse.ArgumentParser(
        description="Train datasets x configurations x seeds from a YAML list and tabulate AP, minutes and divergences. "
        "Downloads nothing. Finished runs are kept, interrupted ones are resumed.",
        allow_abbrev=False,
    )
    parser.add_argument("list", type=Path, nargs="?", help="the YAML list, such as tools/benchmarks/suite.yaml")
    parser.add_argument("--root", type=Path, default=Path(), help="parent of relative data.root entries")
    parser.add_argument("--output", type=Path, default=Path("output/suite"), help="default: output/suite")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="parallel runs, which share the cores")
    parser.add_argument("--only", default="", help="comma-separated names of datasets or configurations")
    parser.add_argument("--held-back", action="store_true", help="run the held-out datasets instead of the others")
    parser.add_argument("--table", action="store_true", help="tabulate the finished runs, run nothing")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # one run in its own process
    args = parser.parse_args(argv)
    if args.job:
        run_job(Job(**json.loads(args.job)))
        return 0
    if args.list is None or args.jobs < 1:
        parser.error("expected a list, and --jobs of at least 1")
    suite = read_suite(args.list)
    only = [name for name in args.only.split(",") if name]
    suite_jobs = jobs(suite, args.root, args.output, held_back=args.held_back, only=only)
    if not args.table:
        run_all([job for job in suite_jobs if job.result() is None], args.jobs)
    results = [result for job in suite_jobs if (result := job.result()) is not None]
    if not results:
        raise ValueError(f"no finished runs in {args.output}")
    print(write_table(results, args.output, suite.baseline))
    logging.getLogger("detection").info("table and plot: %s", args.output / "suite.md")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
