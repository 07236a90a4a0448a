"""``resdet runs``: the runs under a folder, and how their configurations differ."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detection.report.runs import differences, find_runs, read_config, read_run, runs_csv, runs_page, runs_text
from detection.utils.atomic_io import require_new, write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write it as a page or as CSV."""
    parser = argparse.ArgumentParser(prog="resdet runs", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("output"), help="of the runs (default: output)")
    parser.add_argument(
        "--diff",
        nargs="+",
        metavar="RUN",
        help="only these runs, as they are named in the table, and how their keys differ",
    )
    parser.add_argument("--html", type=Path, help="write a page, in which any two can be compared")
    parser.add_argument("--csv", type=Path, help="write the table as CSV")
    args = parser.parse_args(argv)
    files = [file for file in (args.html, args.csv) if file is not None]
    require_new(files, "--html or --csv FILE")
    folders = find_runs(args.folder)
    rows = [read_run(folder, args.folder) for folder in folders]
    configs = [read_config(folder) for folder in folders]
    chosen = list(range(len(rows)))
    if args.diff:
        names = [row["run"] for row in rows]
        if unknown := [name for name in args.diff if name not in names]:
            raise ValueError(f"no run {unknown[0]!r} in {args.folder}; there are {', '.join(names)}")
        chosen = [names.index(name) for name in args.diff]
    rows, configs = [rows[i] for i in chosen], [configs[i] for i in chosen]
    print(runs_text(rows, differences(configs) if args.diff else None), end="")
    for file, text in ((args.html, runs_page(rows, configs, args.folder)), (args.csv, runs_csv(rows))):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, text)
            print(f"written to {file}")
    return 0
