"""``resdet degradation``: the degradation experiment of the ResNet paper (section 4.2, figure 6).

Trains several networks and seeds with one recipe, each as ``resdet train-classifier`` in its own process, and plots their
errors.
"""

import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from detection.classification.config import ClassifierConfig
from detection.classification.plots import Curve
from detection.config import dump_config
from detection.training.callbacks.metrics_log import read_rows
from detection.utils.atomic_io import write_text
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
PAPER_NETWORKS = ("cifar_plain20", "cifar_plain56", "cifar_resnet20", "cifar_resnet56")
_POLL_SECONDS, _POLLS_PER_UPDATE = 0.5, 10  # polling interval; polls between progress updates


@dataclass(frozen=True)
class Run:
    """A training run of one network and seed, and its folder."""

    network: str
    seed: int
    folder: Path
    config: ClassifierConfig

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows logged so far."""
        return read_rows(self.folder / "metrics.jsonl")

    def step(self) -> int:
        """Return the last logged step, 0 before the first."""
        rows = self.rows()
        return int(rows[-1]["step"]) if rows else 0

    def finished(self) -> bool:
        """Return whether the final evaluation is logged."""
        return any("top1" in row and row["step"] == self.config.solver.max_iter for row in self.rows())


def train_all(runs: Sequence[Run], jobs: int) -> None:
    """Train the unfinished runs, ``jobs`` at a time; each resumes from its last checkpoint.

    Raises:
        ValueError: a folder has a run with another configuration, or a run failed; the others are then terminated and can
            be resumed.
    """
    for run in runs:
        saved = run.folder / "config.yaml"
        if saved.exists() and saved.read_text(encoding="utf-8") != dump_config(run.config):
            raise ValueError(
                f"{run.folder} has a run with another configuration; give another --output, or the keys of that run"
            )
    pending = [run for run in runs if not run.finished()]
    if len(pending) < len(runs):
        _LOG.info("%d of %d runs are already finished", len(runs) - len(pending), len(runs))
    threads = max((os.cpu_count() or 1) // jobs, 1)
    total = sum(run.config.solver.max_iter for run in runs)
    running: dict[Run, subprocess.Popen[bytes]] = {}
    try:
        with progress_bar() as bar:
            task, polls = bar.add_task("training", total=total), 0
            while pending or running:
                while pending and len(running) < jobs:
                    run = pending.pop(0)
                    _LOG.info("%s, seed %d: run %d of %d", run.network, run.seed, runs.index(run) + 1, len(runs))
                    running[run] = _start(run, threads)
                time.sleep(_POLL_SECONDS)
                for run, process in list(running.items()):
                    if process.poll() is not None:
                        del running[run]
                        _check_exit_code(run, process.returncode)
                polls += 1
                if polls % _POLLS_PER_UPDATE == 0 or not running:
                    bar.update(task, completed=sum(run.step() for run in runs))
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(run: Run, threads: int) -> "subprocess.Popen[bytes]":
    run.folder.mkdir(parents=True, exist_ok=True)
    config_file = run.folder / "wanted.yaml"
    write_text(config_file, dump_config(run.config))
    command = [
        sys.executable,
        "-m",
        "detection",
        "train-classifier",
        "--config",
        str(config_file),
        "--output",
        str(run.folder),
    ]
    if (run.folder / "last.pth").exists():
        command.append("--resume")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with (run.folder / "screen.txt").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)


def _check_exit_code(run: Run, code: int) -> None:
    """Delete a finished run's temporary files; raise ValueError with the end of its output where it failed."""
    output = run.folder / "screen.txt"
    if code:
        last = "\n  ".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise ValueError(f"{run.network}, seed {run.seed}: exited with code {code}; last lines of {output}:\n  {last}")
    output.unlink()
    (run.folder / "wanted.yaml").unlink()  # the same as the run's config.yaml


def curves(runs: Sequence[Run]) -> list[Curve]:
    """Return the training and test errors of each run over its steps."""
    result = []
    for run in runs:
        rows = run.rows()
        training = [(row["step"], 1 - row["train_top1"]) for row in rows if row.get("train_top1") is not None]
        testing = [(row["step"], 1 - row["top1"]) for row in rows if row.get("top1") is not None]
        result.append(Curve(run.network, run.seed, training, testing))
    return result


def summarise(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return for each network the final training and test errors of all seeds, and their medians.

    The training error is the mean over the last 10% of the steps, on augmented images, before each update.
    """
    summary: dict[str, dict[str, Any]] = {}
    for run, curve in zip(runs, curves(runs), strict=True):
        last = [error for step, error in curve.training if step > 0.9 * run.config.solver.max_iter]
        entry = summary.setdefault(run.network, {"seeds": [], "train_error": [], "test_error": []})
        entry["seeds"].append(run.seed)
        entry["train_error"].append(statistics.fmean(last or [error for _, error in curve.training[-1:]]))
        entry["test_error"].append(curve.testing[-1][1])
    for entry in summary.values():
        for key in ("train_error", "test_error"):
            entry[f"median_{key}"] = statistics.median(entry[key])
    return summary


def print_summary(summary: dict[str, dict[str, Any]]) -> None:
    """Print the errors of each network as a table."""
    errors = Table("network", *(f"{kind} error: median (min to max)" for kind in ("training", "test")))
    for name, entry in summary.items():
        cells = (
            f"{entry[f'median_{key}']:.3f} ({min(entry[key]):.3f} to {max(entry[key]):.3f})"
            for key in ("train_error", "test_error")
        )
        errors.add_row(name, *cells)
    Console(width=None if Console().is_terminal else 120).print(errors)
